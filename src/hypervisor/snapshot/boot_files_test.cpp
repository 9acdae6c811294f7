#include "src/hypervisor/snapshot/boot_files.h"

#include "src/hypervisor/snapshot/archive_reader.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/remove.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::snapshot {
namespace {

class BootFilesTest : public SnapshotTest {
 protected:
  BootFilesTest() {
    kernel_ = write("vmlinuz", std::string(200'000, 'k'));
    initrd_ = write("initrd.gz", "first");
  }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name)) << content;
    return path(name);
  }
  static std::string content_of(const UniqueFd& fd) {
    if (!fd) return "none";
    struct stat status{};
    EXPECT_EQ(::fstat(fd.get(), &status), 0);
    std::string text(static_cast<std::size_t>(status.st_size), '?');
    EXPECT_TRUE(read_exact_at(fd.get(), std::as_writable_bytes(std::span(text)), 0));
    return text;
  }
  // Of a directory or an archive: the initrd, where the kernel is right.
  std::string initrd_in(const std::string& name) const {
    const auto source = open_source(path(name));
    if (!source) return source.error().message();
    const auto disks = (*source)->unpack_disks();
    if (!disks) return disks.error().message();
    const auto boot = (*source)->open_boot();
    if (!boot) return boot.error().message();
    if (content_of(boot->kernel) != std::string(200'000, 'k')) return "another kernel";
    return content_of(boot->initrd);
  }
  bool has(const std::string& name) const { return fs::exists(path(name)); }
};

TEST_F(BootFilesTest, OutliveTheFilesThatTheyAreCopiesOf) {
  ASSERT_TRUE(save("one"));
  fs::remove(kernel_);
  write("initrd.gz", "another");
  EXPECT_EQ(initrd_in("one"), "first");
  EXPECT_EQ(refusal("one", Verify::all), "");
  ASSERT_TRUE(remove(path("one")));
  EXPECT_FALSE(has("one"));
}

TEST_F(BootFilesTest, AFileThatIsWrittenOverIsNotWhatTheGuestBooted) {
  const auto files = open_boot_files(kernel_, initrd_);
  ASSERT_TRUE(files);
  const auto writer = Writer::create(path("one"));
  ASSERT_TRUE(writer);
  ASSERT_EQ(keep_boot_files(**writer, *files, nullptr)->size(), 2u);
  ASSERT_TRUE((*writer)->remove_file(kKernelFile));
  ASSERT_TRUE((*writer)->remove_file(kInitrdFile));
  fs::last_write_time(initrd_, fs::file_time_type::clock::now() + std::chrono::seconds(9));
  const auto kept = keep_boot_files(**writer, *files, nullptr);
  ASSERT_TRUE(kept) << kept.error().message();
  EXPECT_EQ(kept->size(), 0u);
  EXPECT_FALSE(has("one.partial/kernel") || has("one.partial/initrd"));
}

TEST_F(BootFilesTest, NeedNotBeThere) {
  kernel_.clear();
  ASSERT_TRUE(save("one"));
  const auto source = open_source(path("one"));
  ASSERT_TRUE(source);
  EXPECT_FALSE((*source)->open_boot()->kernel);
  kernel_ = path("vmlinuz");
  initrd_.clear();
  ASSERT_TRUE(save("two"));
  EXPECT_EQ(initrd_in("two"), "none");
}

TEST_F(BootFilesTest, OfAnIncrementalSnapshotAreItsParents) {
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(save("two", "one", kAll));
  write("initrd.gz", "second");
  ASSERT_TRUE(save("three", "two", kAll));
  EXPECT_FALSE(has("two/kernel") || has("two/initrd") || has("three/kernel"));
  EXPECT_TRUE(has("three/initrd"));
  EXPECT_EQ(initrd_in("two"), "first");
  EXPECT_EQ(initrd_in("three"), "second");
  initrd_.clear();
  ASSERT_TRUE(save("four", "three", kAll));
  EXPECT_EQ(initrd_in("four"), "none");

  const auto reader = Reader::open(path("three"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(merge(**reader, path("merged")));
  EXPECT_EQ(initrd_in("merged"), "second");
  ASSERT_TRUE(export_snapshot(**reader, path("packed.vmm"), {}));
  EXPECT_EQ(initrd_in("packed.vmm"), "second");
  ASSERT_TRUE(verify_archive(path("packed.vmm"), {}));
  ASSERT_TRUE(import_archive(path("packed.vmm"), path("unpacked"), {}));
  EXPECT_EQ(initrd_in("unpacked"), "second");
  EXPECT_EQ(refusal("unpacked", Verify::all), "");
}

TEST_F(BootFilesTest, AreWhatTheManifestSays) {
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(save("two", "one", kAll));
  write("one/kernel", std::string(200'000, 'K'));
  EXPECT_NE(refusal("one").find("digest mismatch of its file 'kernel'"), std::string::npos);
  EXPECT_NE(refusal("two").find("digest mismatch of its file 'kernel'"), std::string::npos);
  write("one/kernel", "short");
  EXPECT_NE(refusal("one").find("'kernel' has 5 bytes instead of 200000"), std::string::npos);
  // What a link leads to would be shown to the guest.
  fs::remove(path("one/kernel"));
  fs::create_symlink("../vmlinuz", path("one/kernel"));
  EXPECT_NE(refusal("one").find("is a symbolic link"), std::string::npos);
  fs::remove(path("one/kernel"));
  EXPECT_NE(refusal("one"), "");
}

TEST_F(BootFilesTest, AManifestSaysWhereTheyAre) {
  ASSERT_TRUE(save("one"));
  auto manifest = (*Reader::open(path("one")))->manifest();
  manifest.boot[1].of_parent = true;
  const auto orphan = parse_manifest(to_text(manifest));
  ASSERT_FALSE(orphan);
  EXPECT_EQ(orphan.error().message(), "its file 'initrd' is its parent's, but it has no parent");
  manifest.boot.erase(manifest.boot.begin());
  manifest.boot[0].of_parent = false;
  const auto headless = parse_manifest(to_text(manifest));
  ASSERT_FALSE(headless);
  EXPECT_EQ(headless.error().message(), "it says what a reset boots, but no kernel");
}

TEST_F(BootFilesTest, OfAParentThatLacksThemAreRefused) {
  kernel_.clear();
  ASSERT_TRUE(save("one"));
  kernel_ = path("vmlinuz");
  const auto writer = Writer::create(path("two"));
  ASSERT_TRUE(writer);
  const auto parent = Reader::open(path("one"));
  Manifest manifest = (*parent)->manifest();
  manifest.parent = *parent_of(**writer, **parent);
  manifest.disks.clear();
  BootFile kernel;
  kernel.name = kKernelFile;
  kernel.size = 200'000;
  kernel.digest = std::string(64, '0');
  kernel.of_parent = true;
  manifest.boot = {kernel};
  state::Sections sections;
  sections.put(kMemorySection, MemoryLayer{.complete = false, .extents = {}});
  const auto states = *sections.to_bytes();
  manifest.state_digest = digest_of(states);
  ASSERT_TRUE((*writer)->write_file(kStateFile, states));
  const auto memory = (*writer)->create_file(kMemoryFile);
  ASSERT_EQ(::ftruncate(memory->get(), static_cast<off_t>(manifest.memory_size())), 0);
  manifest.memory_digest = *digest_of_sparse(memory->get(), manifest.memory_size());
  const auto published = (*writer)->publish(manifest);
  ASSERT_FALSE(published);
  EXPECT_NE(published.error().message().find("does not have its file 'kernel'"), std::string::npos)
      << published.error().message();
}

}  // namespace
}  // namespace vmm::snapshot
