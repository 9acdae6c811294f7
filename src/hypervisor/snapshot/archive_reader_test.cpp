#include "src/hypervisor/snapshot/archive_reader.h"

#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::snapshot {
namespace {

class ArchiveReaderTest : public SnapshotTest {
 protected:
  void pack(const std::string& name, const ExportBase& base = {}) {
    ASSERT_TRUE(save(name));
    const auto reader = Reader::open(path(name), Verify::sealed, Hosts::any);
    ASSERT_TRUE(reader) << reader.error().message();
    const auto made = export_snapshot(**reader, path(name + ".vmm"), base);
    ASSERT_TRUE(made) << made.error().message();
  }
  static std::string content(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  void write(const std::string& file, std::string_view bytes) const {
    std::ofstream(path(file), std::ios::binary | std::ios::trunc) << bytes;
  }
  // Opens it, unpacks its disks and fills a memory: "" when all of that works.
  std::string refusal_of(const std::string& file, std::string* first_disk = nullptr) const {
    const auto all = [&]() -> Result<void> {
      auto source = TRY(ArchiveReader::open(path(file)));
      const auto disk = source->disk_file(source->manifest().disks.at(0));
      const auto files = TRY(source->unpack_disks());
      if (first_disk != nullptr) *first_disk = content(disk.path);
      const PackedMemory packed(TRY(Archive::open(path(file))));
      return packed.fill(*TRY(GuestMemory::create(source->manifest().memory)));
    };
    const auto result = all();
    return result ? "" : result.error().message();
  }
};

TEST_F(ArchiveReaderTest, IsTheSnapshotThatWasExported) {
  disk_ = std::string(70'000 / 512 * 512, 'd') + std::string(1u << 20, '\0');
  pack("one");
  const auto directory = Reader::open(path("one"));
  ASSERT_TRUE(directory);
  const auto source = open_source(path("one.vmm"));
  ASSERT_TRUE(source) << source.error().message();
  EXPECT_EQ((*source)->digest(), (*directory)->digest());
  EXPECT_EQ((*source)->path(), path("one.vmm"));
  auto sections = (*source)->take_sections();
  EXPECT_EQ(sections.take<Example>("example")->value, 42u);
  EXPECT_TRUE(sections.check_all_taken());

  const auto disk = (*source)->disk_file((*source)->manifest().disks.at(0));
  EXPECT_TRUE(disk.is_private);
  EXPECT_EQ(disk.label, path("one.vmm") + ":blk0");
  const auto files = (*source)->unpack_disks();
  ASSERT_TRUE(files) << files.error().message();
  EXPECT_EQ(content(disk.path), disk_);
  struct stat status{};
  ASSERT_EQ(::fstat(files->at(0).get(), &status), 0);
  EXPECT_LE(status.st_blocks, 80'000 / 512 + 16) << "holes";
  EXPECT_EQ(status.st_nlink, 0u);

  // By a page server or at once: the same.
  const auto provided = (*source)->provide_memory([](const std::string&) {});
  ASSERT_TRUE(provided) << provided.error().message();
  const auto& memory = *provided->memory;
  EXPECT_EQ(first_byte(memory, 0), 0);
  EXPECT_EQ(first_byte(memory, kPage), 'a');
  EXPECT_EQ(first_byte(memory, 2 * kPage), 'b');
  EXPECT_EQ(first_byte(memory, (4ull << 30) + 3 * kPage), 'c');
}

TEST_F(ArchiveReaderTest, DirectoriesAreSourcesAsWell) {
  pack("one");
  const auto source = open_source(path("one"));
  ASSERT_TRUE(source) << source.error().message();
  const auto disk = (*source)->disk_file((*source)->manifest().disks.at(0));
  EXPECT_EQ(disk.path, path("one/blk0.img"));
  EXPECT_FALSE(disk.is_private);
  const auto missing = open_source(path("none"));
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("there is no such"), std::string::npos);
}

TEST_F(ArchiveReaderTest, RefusesWhatIsNotWholeOrNotOfThisHost) {
  pack("one");
  fill(GuestAddress{5 * kPage}, 'f');
  pack("two", {path("one.vmm"), {}});
  const auto builds_on = refusal_of("two.vmm");
  EXPECT_NE(builds_on.find("two.vmm': it builds on the archive"), std::string::npos) << builds_on;
  architecture_ = "vax";
  pack("vax");
  EXPECT_NE(refusal_of("vax.vmm").find("it is of an vax machine"), std::string::npos);
  const auto whole = content(path("one.vmm"));
  for (std::size_t size = 0; size < whole.size(); size += size < 200 ? 1 : 13) {
    write("bad.vmm", std::string_view(whole).substr(0, size));
    EXPECT_NE(refusal_of("bad.vmm"), "") << size << " bytes";
  }
}

// The digest of the whole is not compared, so one in its own frame changes nothing.
TEST_F(ArchiveReaderTest, NoAlteredByteReachesAMachine) {
  pack("one");
  const auto whole = content(path("one.vmm"));
  ASSERT_LT(whole.size(), 8000u);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x21);
    write("bad.vmm", bytes);
    std::string disk;
    const auto refused = refusal_of("bad.vmm", &disk);
    if (!refused.empty()) {
      EXPECT_EQ(refused.find("archive", 1), std::string::npos) << "named once: " << refused;
      continue;
    }
    EXPECT_EQ(disk, disk_) << "byte " << at;
    const auto archive = Archive::open(path("bad.vmm"));
    ASSERT_TRUE(archive);
    EXPECT_FALSE((*archive)->check_digest()) << "byte " << at;
    const auto memory = std::move(*GuestMemory::create(kRanges));
    ASSERT_TRUE(PackedMemory(std::move(*Archive::open(path("bad.vmm")))).fill(*memory));
    for (std::size_t i = 0; i < kRanges.size(); ++i) {
      EXPECT_EQ(std::memcmp(memory->regions()[i].host, memory_->regions()[i].host, kRanges[i].size),
                0)
          << "byte " << at;
    }
  }
}

}  // namespace
}  // namespace vmm::snapshot
