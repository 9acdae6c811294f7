// Bytes that this and every later program reads: tests/data/snapshot-v1, a snapshot of version 1,
// tests/data/snapshot-v1.vmm, an archive of it, and tests/data/snapshot-v2, an incremental one over
// the first, of version 2. Made once, by these tests themselves:
//
//   VMM_MAKE_GOLDEN=tests/data build/src/hypervisor/snapshot/snapshot_test --gtest_filter=Golden*
//
// A new version has others beside these, which stay as they are.
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::snapshot {
namespace {

class GoldenTest : public SnapshotTest {
 protected:
  static constexpr std::array<MemoryRange, 2> kSmall = {
      MemoryRange{GuestAddress{0}, 64u << 10}, MemoryRange{GuestAddress{4ull << 30}, 64u << 10}};

  Result<void> make(const std::string& directory) const {
    const auto memory = TRY(GuestMemory::create(kSmall));
    fill(*memory, GuestAddress{kPage}, 'g');
    fill(*memory, GuestAddress{(4ull << 30) + 2 * kPage}, 'o');
    const auto writer = TRY(Writer::create(directory));
    Manifest manifest{.architecture = "x86_64",
                      .program = "0.1.0",
                      .config = R"({"cpus": 1, "mem": "128K"})",
                      .typed = false};
    manifest.memory.assign(kSmall.begin(), kSmall.end());
    manifest.memory_digest = TRY(write_memory(*writer, *memory, TRY(touched_pages(*memory))));
    state::Sections sections;
    sections.put("example", Example{0x01020304});
    sections.put(kMemorySection, MemoryLayer{});
    const auto state = TRY(sections.to_bytes());
    manifest.state_digest = digest_of(state);
    TRY(writer->write_file(kStateFile, state));
    const std::string disk(1536, 'd');  // no whole page
    const auto disk_file = TRY(writer->create_file("blk0.img"));
    TRY(write_all(disk_file.get(), std::as_bytes(std::span(disk))));
    manifest.disks.push_back({.device = "blk0",
                              .file = "blk0.img",
                              .path = "/images/root.img",
                              .size = disk.size(),
                              .digest = TRY(digest_of_sparse(disk_file.get(), disk.size()))});
    return writer->publish(manifest);
  }

  // Over snapshot-v1 beside it: one page of the memory, the disk's only chunk.
  static Result<void> make_second(const std::string& directory) {
    const auto parent_path = fs::path(directory).parent_path().string() + "/snapshot-v1";
    const auto parent = TRY(Reader::open(parent_path, Verify::sealed, Hosts::any));
    const auto memory = TRY(parent->map_memory());
    const auto before = TRY(parent->map_memory());
    fill(*memory, GuestAddress{3 * kPage}, 'n');
    const auto writer = TRY(Writer::create(directory));
    Manifest manifest = parent->manifest();
    manifest.parent = Parent{"../snapshot-v1", parent->digest()};
    const auto file = TRY(writer->create_file(kMemoryFile));
    if (::ftruncate(file.get(), static_cast<off_t>(manifest.memory_size())) < 0) {
      return fail_errno("truncate");
    }
    MemoryLayer layer{.complete = false, .extents = {}};
    const std::array<Extent, 1> all = {Extent{0, manifest.memory_size()}};
    layer.extents = TRY(write_changed_pages(*memory, *before, all, file.get()));
    manifest.memory_digest = TRY(digest_of_sparse(file.get(), manifest.memory_size()));
    state::Sections sections;
    sections.put("example", Example{0x01020305});
    sections.put(kMemorySection, layer);
    const auto state = TRY(sections.to_bytes());
    manifest.state_digest = digest_of(state);
    TRY(writer->write_file(kStateFile, state));
    auto& disk = manifest.disks[0];
    const DiskEntry below = disk;
    const auto target = TRY(create_layer(*writer, disk, *manifest.parent, below));
    const std::string content(below.size, 'n');
    TRY(target->write(0, std::as_bytes(std::span(content))));
    TRY(target->finish());
    TRY(complete_entry(*writer, disk));
    return writer->publish(manifest);
  }

  static void check(const std::string& directory) {
    auto reader = Reader::open(directory, Verify::all, Hosts::any);
    ASSERT_TRUE(reader) << reader.error().message();
    EXPECT_EQ((*reader)->digest(), kDigest);
    const auto& manifest = (*reader)->manifest();
    EXPECT_EQ(manifest.architecture, "x86_64");
    EXPECT_EQ(manifest.memory_size(), 128u << 10);
    ASSERT_EQ(manifest.disks.size(), 1u);
    EXPECT_EQ(manifest.disks[0].path, "/images/root.img");
    const auto memory = (*reader)->map_memory();
    ASSERT_TRUE(memory) << memory.error().message();
    EXPECT_EQ(first_byte(**memory, 0), 0);
    EXPECT_EQ(first_byte(**memory, kPage), 'g');
    EXPECT_EQ(first_byte(**memory, (4ull << 30) + 2 * kPage), 'o');
    auto sections = (*reader)->take_sections();
    EXPECT_EQ(sections.take<Example>("example")->value, 0x01020304u);
    EXPECT_TRUE(sections.check_all_taken());
  }
  static std::string content(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  static constexpr const char* kDigest =
      "e392c33f813b1ee680cb57cda5e54b1618d50b9fd18f16c1820c290cdcab73aa";
  const std::string snapshot_ = std::string(VMM_TEST_DATA) + "/snapshot-v1";
  const std::string archive_ = snapshot_ + ".vmm";
  const std::string second_ = std::string(VMM_TEST_DATA) + "/snapshot-v2";
};

TEST_F(GoldenTest, ReadsTheSnapshotOfVersion1) { check(snapshot_); }

TEST_F(GoldenTest, ReadsTheArchiveOfVersion1) {
  const auto digest = import_archive(archive_, path("again"), {});
  ASSERT_TRUE(digest) << digest.error().message();
  check(path("again"));
}

TEST_F(GoldenTest, WritesTheSameBytes) {
  const char* target = std::getenv("VMM_MAKE_GOLDEN");
  const std::string made = target != nullptr ? std::string(target) + "/snapshot-v1" : path("made");
  const auto result = make(made);
  ASSERT_TRUE(result) << result.error().message();
  if (target != nullptr) {
    fs::remove(made + "/seal");  // it is of this file system
    const auto reader = Reader::open(made, Verify::all, Hosts::any);
    ASSERT_TRUE(reader) << reader.error().message();
    ASSERT_TRUE(export_snapshot(**reader, made + ".vmm", {}));
  }
  for (const std::string file : {"manifest.json", "state", "memory", "blk0.img"}) {
    EXPECT_EQ(content(made + "/" + file), content(snapshot_ + "/" + file)) << file;
  }
}

TEST_F(GoldenTest, ReadsTheSnapshotOfVersion2) {
  auto reader = Reader::open(second_, Verify::all, Hosts::any);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto memory = (*reader)->map_memory();
  ASSERT_TRUE(memory) << memory.error().message();
  EXPECT_EQ(first_byte(**memory, kPage), 'g');
  EXPECT_EQ(first_byte(**memory, 3 * kPage), 'n');
  const auto& entry = (*reader)->manifest().disks.at(0);
  EXPECT_TRUE(entry.layer);
  const auto chain = open_disk_file((*reader)->disk_path(entry), entry);
  ASSERT_TRUE(chain) << chain.error().message();
  std::string bytes(1536, '?');
  ASSERT_EQ((*chain)->read(0, std::as_writable_bytes(std::span(bytes))), 0);
  EXPECT_EQ(bytes, std::string(1536, 'n'));
}

// But for the list of the memory's extents, which is flat since (StateGolden.Memory).
TEST_F(GoldenTest, WritesTheSameBytesOfVersion2) {
  fs::copy(snapshot_, path("snapshot-v1"));
  const auto result = make_second(path("made"));
  ASSERT_TRUE(result) << result.error().message();
  for (const std::string file : {"memory", "blk0.qcow2"}) {
    EXPECT_EQ(content(path("made") + "/" + file), content(second_ + "/" + file)) << file;
  }
  const auto manifest = [](const std::string& directory) {
    auto read = parse_manifest(content(directory + "/manifest.json")).value();
    read.state_digest.clear();
    return to_text(read);
  };
  EXPECT_EQ(manifest(path("made")), manifest(second_));
}

}  // namespace
}  // namespace vmm::snapshot
