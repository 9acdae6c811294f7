#include "src/disk/vmdk/flat_disk.h"

#include <gtest/gtest.h>

#include <random>

#include "src/disk/qcow2/image_test_support.h"

namespace vmm::disk::vmdk {
namespace {

using test::DrivenDisk;
using test::qemu_img;
using test::TemporaryDirectory;

// A descriptor of files whose bytes all differ, and the disk's bytes.
class Layers {
 public:
  explicit Layers(const char* parent) : directory_(parent) {
    add_file("metadata", 12 * kSectorSize);
    add_file("large", 3u << 20);
    add_file("one sector", kSectorSize);
    add("metadata", 0, 12);
    add("large", 5, 4000);
    add("one sector", 0, 1);
    add("large", 1, 3);
    path_ = directory_.path() + "/disk.vmdk";
    std::ofstream(path_) << "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
                            "createType=\"twoGbMaxExtentFlat\"\n"
                         << lines_;
  }
  const std::string& path() const { return path_; }
  const std::string& content() const { return content_; }
  const TemporaryDirectory& directory() const { return directory_; }

 private:
  void add_file(const std::string& name, std::size_t size) {
    std::string bytes(size, '\0');
    for (auto& byte : bytes) byte = static_cast<char>(random_());
    std::ofstream(directory_.path() + "/" + name, std::ios::binary) << bytes;
  }
  void add(const std::string& name, std::size_t first, std::size_t sectors) {
    lines_ += fmt::format("RW {} FLAT \"{}\" {}\n", sectors, name, first);
    const auto bytes = TemporaryDirectory::content(directory_.path() + "/" + name);
    content_ += bytes.substr(first * kSectorSize, sectors * kSectorSize);
  }
  TemporaryDirectory directory_;
  std::mt19937 random_{1};
  std::string path_, lines_, content_;
};

DiskConfig config_of(const Layers& layers, IoEngine io = IoEngine::automatic) {
  return {.path = layers.path(), .format = ImageFormat::vmdk, .read_only = true, .io = io};
}

std::string open_error(const DiskConfig& config) {
  const auto disk = open_disk(config);
  return disk ? "no error" : disk.error().message();
}

TEST(FlatDisk, QemuReadsTheSameBytes) {
  SKIP_WITHOUT_QEMU_IMG();
  const Layers layers(test::kInMemory);
  const auto raw = layers.directory().path() + "/raw";
  qemu_img(fmt::format("convert -f vmdk -O raw {} {}", layers.path(), raw));
  EXPECT_TRUE(TemporaryDirectory::content(raw) == layers.content());
}

TEST(FlatDisk, TakesWhatQemuMakes) {
  SKIP_WITHOUT_QEMU_IMG();
  const TemporaryDirectory directory;
  for (const auto* kind : {"monolithicFlat", "twoGbMaxExtentFlat"}) {
    const auto path = fmt::format("{}/{}.vmdk", directory.path(), kind);
    qemu_img(fmt::format("create -q -f vmdk -o subformat={} {} 4M", kind, path));
    const auto disk = open_disk({.path = path, .format = ImageFormat::vmdk, .read_only = true});
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_EQ((*disk)->info().size, 4u << 20);
  }
}

// Requests of any length at any place, by each engine, by channels and by Disk::read().
TEST(FlatDisk, ReadsAcrossItsParts) {
  for (const auto* parent : {test::kInMemory, test::kOnDisk}) {
    const Layers layers(parent);
    for (const auto io : {IoEngine::automatic, IoEngine::threads}) {
      const auto driven = DrivenDisk::open(config_of(layers, io));
      ASSERT_TRUE(driven);
      const auto size = layers.content().size();
      ASSERT_EQ(driven->disk().info().size, size);
      EXPECT_TRUE(driven->disk().info().read_only);
      EXPECT_TRUE(driven->read(0, size) == layers.content());
      std::mt19937 random(7);
      for (int i = 0; i < 300; ++i) {
        const auto begin = random() % (size / kSectorSize) * kSectorSize;
        const auto most = std::min<std::size_t>(size - begin, 64 * kSectorSize);
        const auto length = (1 + random() % (most / kSectorSize)) * kSectorSize;
        ASSERT_TRUE(driven->read(begin, length) == layers.content().substr(begin, length))
            << length << " at " << begin;
        std::string direct(length, '?');
        ASSERT_TRUE(driven->disk().read(begin, std::as_writable_bytes(std::span(direct))));
        ASSERT_TRUE(direct == layers.content().substr(begin, length)) << length << " at " << begin;
      }
    }
  }
}

// The pieces of many requests are in flight at the same time.
TEST(FlatDisk, CompletesEachRequestOnce) {
  const Layers layers(test::kOnDisk);
  const auto disk = open_disk(config_of(layers, IoEngine::threads));
  ASSERT_TRUE(disk);
  const auto loop = std::move(EventLoop::create().value());
  auto channel = (*disk)->open_channel(*loop, [] {});
  constexpr std::uint32_t kRequests = 64;
  const auto size = layers.content().size();
  std::vector<std::string> targets(kRequests, std::string(size, '?'));
  std::vector<iovec> buffers(kRequests);
  for (std::uint32_t i = 0; i < kRequests; ++i) {
    buffers[i] = {targets[i].data(), size};
    channel->submit({.tag = i, .length = size, .buffers = std::span(&buffers[i], 1)});
  }
  std::vector<int> completed(kRequests);
  for (std::uint32_t left = kRequests; left > 0;) {
    channel->wait();
    for (const auto& done : channel->reap()) {
      EXPECT_EQ(done.error, 0);
      ++completed[done.tag];
      --left;
    }
  }
  EXPECT_EQ(completed, std::vector<int>(kRequests, 1));
  for (const auto& target : targets) EXPECT_TRUE(target == layers.content());
  channel->submit({.tag = 5, .length = size, .buffers = std::span(&buffers[0], 1)});
  channel.reset();  // waits
}

TEST(FlatDisk, RefusesWhatIsNoRead) {
  const Layers layers(test::kInMemory);
  const auto driven = DrivenDisk::open(config_of(layers));
  ASSERT_TRUE(driven);
  EXPECT_EQ(driven->flush(), 0);
  EXPECT_EQ(driven->write(0, std::string(512, 'x')), EROFS);
  EXPECT_EQ(driven->range(Operation::discard, 0, 512), EROFS);
  EXPECT_EQ(driven->range(Operation::write_zeroes, 0, 512), EROFS);
  std::string target(1024, '?');
  const iovec buffer{target.data(), target.size()};
  const auto size = layers.content().size();
  for (const auto offset : {size, size - 512, ~std::uint64_t{511}}) {
    EXPECT_EQ(driven->run({.offset = offset, .length = 1024, .buffers = std::span(&buffer, 1)}),
              EINVAL)
        << offset;
  }
}

// A file that was cut short under a running machine gives errors, other parts their bytes.
TEST(FlatDisk, AFileThatShrinksGivesErrors) {
  const Layers layers(test::kOnDisk);
  const auto driven = DrivenDisk::open(config_of(layers));
  ASSERT_TRUE(driven);
  std::filesystem::resize_file(layers.directory().path() + "/large", 0);
  std::string target(8192, '?');
  const iovec buffer{target.data(), target.size()};
  EXPECT_NE(driven->run({.length = 8192, .buffers = std::span(&buffer, 1)}), 0);
  EXPECT_TRUE(driven->read(0, 12 * kSectorSize) == layers.content().substr(0, 12 * kSectorSize));
}

TEST(FlatDisk, FindsDataBehindHoles) {
  const TemporaryDirectory directory;
  std::ofstream(directory.path() + "/sparse", std::ios::binary).seekp(1 << 20) << "x";
  std::filesystem::resize_file(directory.path() + "/sparse", 2 << 20);
  const auto path = directory.path() + "/d";
  std::ofstream(path)
      << "# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"sparse\" 0\n"
         "RW 2048 FLAT \"sparse\" 2048\nRW 2048 FLAT \"sparse\" 0\n";
  const auto disk = open_disk({.path = path, .format = ImageFormat::vmdk, .read_only = true});
  ASSERT_TRUE(disk) << disk.error().message();
  const auto first = (*disk)->next_data(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->offset, std::uint64_t{1} << 20);
  EXPECT_EQ((*disk)->next_data((1 << 20) + (1 << 19))->length, 0u);
}

TEST(FlatDisk, SaysWhatIsWrong) {
  const TemporaryDirectory directory;
  (void)directory.file("file", 4096);
  (void)directory.file("odd", 1000);
  const auto error_with = [&](const std::string& line) {
    const auto path = directory.path() + "/d";
    std::ofstream(path) << "# Disk DescriptorFile\n" << line << "\n";
    return open_error({.path = path, .format = ImageFormat::vmdk, .read_only = true});
  };
  struct Case {
    const char *line, *part;
  };
  const Case cases[] = {
      {"RW 8 FLAT \"none\" 0", "/none' does not exist"},
      {"RW 9 FLAT \"file\" 0", "ends at byte 4608 of"},
      {"RW 8 FLAT \"file\" 1", "ends at byte 4608 of"},
      {"RW 1 FLAT \"odd\" 0", "multiple of 512"},
      {"RW 1 FLAT \".\" 0", "is a directory"},
      {"RW 1 FLAT \"/dev/zero\" 0", "neither a file nor a block device"},
      {"x", "is not a VMDK descriptor of flat files: line 2"},
  };
  for (const auto& [line, part] : cases) {
    EXPECT_NE(error_with(line).find(part), std::string::npos) << line << ": " << error_with(line);
  }
  const auto path = directory.path() + "/d";
  EXPECT_NE(open_error({.path = path, .format = ImageFormat::vmdk}).find("add ',ro'"),
            std::string::npos);
  EXPECT_NE(open_error({.path = path, .format = ImageFormat::vmdk, .scratch = true}).find("',ro'"),
            std::string::npos);
  // A stranger's list of files is not opened because it looks like one.
  EXPECT_NE(open_error({.path = path, .read_only = true}).find("name its format, vmdk"),
            std::string::npos);
}

}  // namespace
}  // namespace vmm::disk::vmdk
