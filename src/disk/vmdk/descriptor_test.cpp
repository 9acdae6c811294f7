#include "src/disk/vmdk/descriptor.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "src/disk/disk.h"

namespace vmm::disk::vmdk {
namespace {

const std::string kHead = "# Disk DescriptorFile\nversion=1\ncreateType=\"twoGbMaxExtentFlat\"\n";

std::string error_of(const std::string& text) {
  const auto extents = parse_descriptor(text);
  return extents ? "no error" : extents.error().message();
}

TEST(VmdkDescriptor, ListsItsExtentsInOrder) {
  const auto extents = parse_descriptor(
      "# Disk DescriptorFile\r\n\r\n# comment\r\nversion = "
      "1\nCID=fffffffe\nparentCID=\"ffffffff\"\n"
      "createType=\"monolithicFlat\"\nRW 8 FLAT \"with space, and = .img\" 3\n  RW\t16 FLAT \"c\"  "
      "\n"
      "RW 2 FLAT \"/b\"\nddb.adapterType = \"ide\"\n");
  ASSERT_TRUE(extents) << extents.error().message();
  const std::vector<Extent> expected = {
      {"with space, and = .img", 1536, 4096}, {"c", 0, 8192}, {"/b", 0, 1024}};
  EXPECT_EQ(*extents, expected);
}

TEST(VmdkDescriptor, SaysWhatIsWrongInWhichLine) {
  struct Case {
    std::string text, part;
  };
  const Case cases[] = {
      {"", "begin with"},
      {"KDMV", "begin with"},
      {kHead, "no extents"},
      {kHead + "RW 8 SPARSE \"a\"", "line 4: an extent of type 'SPARSE'"},
      {kHead + "RW 8", "type ''"},
      {kHead + "RW 8 ZERO", "type 'ZERO'"},
      {kHead + "NOACCESS 8 FLAT \"a\" 0", "access 'NOACCESS'"},
      {kHead + "RDONLY 8 FLAT \"a\" 0", "access 'RDONLY'"},
      {kHead + "RW 0 FLAT \"a\" 0", "line 4"},
      {kHead + "RW -8 FLAT \"a\" 0", "line 4"},
      {kHead + "RW 8x FLAT \"a\" 0", "line 4"},
      {kHead + "RW 99999999999999999999 FLAT \"a\" 0", "line 4"},
      {kHead + "RW 8 FLAT a 0", "quotation marks"},
      {kHead + "RW 8 FLAT \"a", "quotation marks"},
      {kHead + "RW 8 FLAT \"\" 0", "quotation marks"},
      {kHead + "RW 8 FLAT \"a\" 0 1", "'1' at its end"},
      {kHead + "RW 8 FLAT \"a\" x", "first sector"},
      {kHead + "hello", "line 4: it is neither"},
      {kHead + "version=2", "version '2'"},
      {kHead + "parentCID=12345678", "parent"},
      {kHead + "createType=\"streamOptimized\"", "streamOptimized"},
      {kHead + std::string("RW 8 FLAT \"a\0b\" 0", 17), "NUL"},
  };
  for (const auto& [text, part] : cases) {
    EXPECT_NE(error_of(text).find(part), std::string::npos) << text << ": " << error_of(text);
  }
}

TEST(VmdkDescriptor, HasBounds) {
  std::string many = kHead;
  for (std::size_t i = 0; i < kMaxExtents; ++i) many += "RW 1 FLAT \"a\"\n";
  EXPECT_EQ(error_of(many), "no error");
  EXPECT_NE(error_of(many + "RW 1 FLAT \"a\"\n").find("more than 1024 extents"), std::string::npos);
  EXPECT_NE(error_of(kHead + std::string(kMaxDescriptor, '#')).find("longer"), std::string::npos);
  const auto half = kMaxDiskSize / kSectorSize / 2;
  const auto halves = fmt::format("RW {0} FLAT \"a\"\nRW {0} FLAT \"a\"\n", half);
  EXPECT_EQ(error_of(kHead + halves), "no error");
  EXPECT_NE(error_of(kHead + halves + "RW 1 FLAT \"a\"\n").find("extents are more"),
            std::string::npos);
}

}  // namespace
}  // namespace vmm::disk::vmdk
