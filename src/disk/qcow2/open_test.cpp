// What is refused, how chains are found, and who locks out whom.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>

#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_test_support.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::qemu_img;
using test::TemporaryDirectory;

std::string open_error(const DiskConfig& config) {
  const auto disk = open_disk(config);
  return disk ? "no error" : disk.error().message();
}

class OpenTest : public ::testing::Test {
 protected:
  std::string make(const std::string& name, CreateOptions options = {}) {
    options.path = directory_.path() + "/" + name;
    if (options.size == 0 && options.backing_path.empty()) options.size = 1u << 20;
    const auto made = create_image(options);
    EXPECT_TRUE(made) << made.error().message();
    return options.path;
  }
  static void patch(const std::string& path, std::uint64_t offset, std::uint64_t value,
                    std::size_t bytes) {
    std::byte field[8];
    store(field, value << (64 - 8 * bytes));
    const auto fd = open_file(path, O_RDWR);
    ASSERT_TRUE(fd);
    ASSERT_TRUE(write_all_at(fd->get(), std::span(field).first(bytes), offset));
  }
  // What is said about an image whose header has another value at an offset.
  std::string patched(std::uint64_t offset, std::uint64_t value, std::size_t bytes) {
    const auto path = make("patched");
    patch(path, offset, value, bytes);
    const auto error = open_error({.path = path, .format = ImageFormat::qcow2});
    EXPECT_EQ(::unlink(path.c_str()), 0);
    return error;
  }

  TemporaryDirectory directory_;
};

TEST_F(OpenTest, RefusesWhatItCannotRead) {
  EXPECT_SENTENCE(patched(0, 0, 4), "is not a qcow2 image");
  EXPECT_SENTENCE(patched(4, 1, 4), "version 1; 2 and 3");
  EXPECT_SENTENCE(patched(4, 4, 4), "version 4");
  EXPECT_SENTENCE(patched(32, 1, 4), "encrypted");
  EXPECT_SENTENCE(patched(32, 2, 4), "encrypted");
  EXPECT_SENTENCE(patched(kIncompatibleField, kIncompatibleDataFile, 8), "external data file");
  EXPECT_SENTENCE(patched(kIncompatibleField, kIncompatibleExtendedL2, 8), "extended L2");
  EXPECT_SENTENCE(patched(kIncompatibleField, 1u << 9, 8), "incompatible feature 9");
  EXPECT_SENTENCE(patched(kIncompatibleField, kIncompatibleDirty, 8), "vmm disk check --repair");
  EXPECT_SENTENCE(patched(kIncompatibleField, kIncompatibleCorrupt, 8), "marked as damaged");
}

TEST_F(OpenTest, RefusesWhatLeavesTheFileOrTheLimits) {
  EXPECT_SENTENCE(patched(20, 8, 4), "clusters of 2^8");
  EXPECT_SENTENCE(patched(20, 22, 4), "clusters of 2^22");
  EXPECT_SENTENCE(patched(24, 0, 8), "0 bytes");
  EXPECT_SENTENCE(patched(24, 1000, 8), "1000 bytes, which is not a multiple of 512");
  EXPECT_SENTENCE(patched(24, UINT64_MAX, 8), "invalid size");
  EXPECT_SENTENCE(patched(24, 1ull << 40, 8), "too small");
  EXPECT_SENTENCE(patched(36, 0, 4), "too small");
  EXPECT_SENTENCE(patched(36, UINT32_MAX, 4), "too large");
  EXPECT_SENTENCE(patched(40, 512, 8), "does not begin a cluster");
  EXPECT_SENTENCE(patched(40, 1ull << 40, 8), "leaves the file");
  EXPECT_SENTENCE(patched(48, 0, 8), "does not begin a cluster");
  EXPECT_SENTENCE(patched(48, 1ull << 40, 8), "leaves the file");
  EXPECT_SENTENCE(patched(56, 0, 4), "refcount table of 0");
  EXPECT_SENTENCE(patched(56, UINT32_MAX, 4), "refcount table of 4294967295");
  EXPECT_SENTENCE(patched(60, 65537, 4), "65537 internal snapshots");
  EXPECT_SENTENCE(patched(96, 7, 4), "refcounts of 2^7");
  EXPECT_SENTENCE(patched(100, 1u << 20, 4), "invalid header of 1048576");
  EXPECT_SENTENCE(patched(112, 0x1234567800001000, 8), "no error");
  EXPECT_SENTENCE(patched(112, 0x12345678ffffffff, 8), "leaves the header");
  EXPECT_SENTENCE(patched(8, 65000, 8), "no error");
}

TEST_F(OpenTest, FeaturesOfQemuAreNamed) {
  SKIP_WITHOUT_QEMU_IMG();
  const auto path = directory_.path() + "/image";
  qemu_img("create -q -f qcow2 -o extended_l2=on,cluster_size=128k " + path + " 1M");
  EXPECT_SENTENCE(open_error({.path = path}), "extended L2 entries");
  qemu_img("create -q -f qcow2 -o data_file=" + path + ".data " + path + " 1M");
  EXPECT_SENTENCE(open_error({.path = path}), "external data file");
  qemu_img(
      "create -q -f qcow2 --object secret,id=s,data=x "
      "-o encrypt.format=aes,encrypt.key-secret=s " +
      path + " 1M");
  EXPECT_SENTENCE(open_error({.path = path}), "encrypted");
}

TEST_F(OpenTest, ADirtyImageCanBeRead) {
  const auto path = make("dirty");
  patch(path, kIncompatibleField, kIncompatibleDirty, 8);
  EXPECT_EQ(open_error({.path = path, .read_only = true}), "no error");
}

TEST_F(OpenTest, TakesWhatTheFormatKeySays) {
  const auto image = make("image");
  const auto raw = directory_.file("raw", 4096);
  EXPECT_EQ(open_disk({.path = image}).value()->info().size, 1u << 20);
  EXPECT_NE(open_disk({.path = image, .format = ImageFormat::raw}).value()->info().size, 1u << 20);
  EXPECT_SENTENCE(open_error({.path = raw, .format = ImageFormat::qcow2}), "is not a qcow2 image");
  EXPECT_SENTENCE(open_error({.path = directory_.file("x", 0), .format = ImageFormat::qcow2}),
                  "is not a qcow2 image");
  EXPECT_SENTENCE(open_error({.path = directory_.path() + "/none"}), "does not exist");
}

TEST_F(OpenTest, ResolvesBackingFilesBesideTheImage) {
  directory_.file("base", 1u << 20);
  ASSERT_EQ(::mkdir((directory_.path() + "/sub").c_str(), 0700), 0);
  const auto overlay = make("sub/overlay", {.backing_path = "../base"});
  const auto disk = DrivenDisk::open({.path = overlay});
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->disk().info().size, 1u << 20);
  EXPECT_EQ(disk->read(0, 4096), TemporaryDirectory::pattern(4096));
}

TEST_F(OpenTest, AShorterBackingFileEndsInZeroes) {
  directory_.file("base", 70000);
  const auto overlay = make(
      "overlay", {.size = 1u << 20, .backing_path = "base", .backing_format = ImageFormat::raw});
  const auto disk = DrivenDisk::open({.path = overlay});
  ASSERT_TRUE(disk);
  std::string model = TemporaryDirectory::pattern(70000);
  model.resize(1u << 20);
  EXPECT_TRUE(disk->read(0, 1u << 20) == model);
  ASSERT_EQ(disk->write(69632, std::string(512, 'x')), 0);
  model.replace(69632, 512, std::string(512, 'x'));
  EXPECT_TRUE(disk->read(0, 1u << 20) == model);
}

TEST_F(OpenTest, RefusesChainsThatHaveNoEnd) {
  const auto a = make("a");
  const auto b = make("b", {.backing_path = "a"});
  const auto c = make("c", {.backing_path = "b"});
  ASSERT_EQ(::rename(c.c_str(), a.c_str()), 0);
  EXPECT_SENTENCE(open_error({.path = b}), "form a loop");
  EXPECT_SENTENCE(open_error({.path = b, .read_only = true}), "form a loop");
}

TEST_F(OpenTest, RefusesChainsThatAreTooLong) {
  make("0");
  for (int i = 1; i < 65; ++i) {
    make(std::to_string(i),
         {.backing_path = std::to_string(i - 1), .backing_format = ImageFormat::qcow2});
  }
  EXPECT_EQ(open_error({.path = directory_.path() + "/64"}), "no error");
  const auto refused = create_image({.path = directory_.path() + "/65",
                                     .backing_path = "64",
                                     .backing_format = ImageFormat::qcow2});
  ASSERT_FALSE(refused);
  EXPECT_SENTENCE(refused.error().message(), "has 64 files behind it; a disk has at most 64");
  // Another program made it.
  const auto path = make("66", {.backing_path = "63", .backing_format = ImageFormat::qcow2});
  const auto name = TemporaryDirectory::content(path).find("63");
  ASSERT_NE(name, std::string::npos);
  patch(path, name, 0x3634, 2);
  EXPECT_SENTENCE(open_error({.path = path}), "more than 64 backing files");
}

TEST_F(OpenTest, ABackingFileWithoutANamedFormatIsRefused) {
  directory_.file("base", 1u << 20);
  const auto path = make("overlay", {.backing_path = "base"});
  // The header's extension that names it becomes one that nobody knows.
  patch(path, kHeaderSizeV3 + 8, 0x12345678, 4);
  const auto error = open_error({.path = path});
  EXPECT_SENTENCE(error, "does not say the format of its backing file");
  EXPECT_SENTENCE(error, "qemu-img rebase -u -F FORMAT -b base " + path);
  if (!test::have_qemu_img()) return;
  qemu_img("rebase -u -f qcow2 -F raw -b base " + path);
  EXPECT_EQ(open_error({.path = path}), "no error");
}

TEST_F(OpenTest, ImagesOfOtherFormatsAreNotRaw) {
  SKIP_WITHOUT_QEMU_IMG();
  const auto path = directory_.path() + "/other";
  constexpr std::array kFormats = {
      "vmdk",      "vpc",  "vpc -o subformat=fixed",
      "vhdx",      "vdi",  "qed",
      "parallels", "qcow", "luks --object secret,id=s,data=x -o key-secret=s,iter-time=10"};
  for (const std::string_view words : kFormats) {
    SCOPED_TRACE(words);
    const auto format = words.substr(0, words.find(' '));
    if (format == "luks") {  // qemu-img would derive a key, and measure how quick that is
      std::ofstream(path) << "LUKS\xba\xbe" << std::string(4096, '\1');
    } else {
      qemu_img(fmt::format("create -q -f {} {} 4M", words, path));
    }
    const auto error = open_error({.path = path});
    EXPECT_SENTENCE(error, "image, which is not supported");
    EXPECT_SENTENCE(error, fmt::format("`qemu-img convert -f {} -O qcow2 {} NEW`", format, path));
    EXPECT_SENTENCE(open_error({.path = path, .read_only = true}), "not supported");
    EXPECT_SENTENCE(open_error({.path = path, .read_only = true, .scratch = true}),
                    "not supported");
    EXPECT_EQ(open_error({.path = directory_.file("x", 512), .format = ImageFormat::raw}),
              "no error");
    std::filesystem::resize_file(path, 8u << 20);
    EXPECT_EQ(open_error({.path = path, .format = ImageFormat::raw}), "no error");
    ASSERT_EQ(::unlink(path.c_str()), 0);
  }
}

TEST_F(OpenTest, AVhdOfFixedSizeIsKnownByItsEnd) {
  const auto write = [&](const std::string& name, std::size_t before, std::size_t behind) {
    const auto path = directory_.path() + "/" + name;
    std::ofstream(path) << std::string(before, '\0') << "conectix" << std::string(behind, '\0');
    return path;
  };
  const auto vhd = write("vhd", 1u << 20, 504);
  EXPECT_SENTENCE(open_error({.path = vhd}), "is a VHD image, which is not supported");
  EXPECT_EQ(open_error({.path = vhd, .format = ImageFormat::raw}), "no error");
  EXPECT_EQ(open_error({.path = write("elsewhere", (1u << 20) + 512, 1016)}), "no error");
}

TEST_F(OpenTest, TheSizeOfADiskHasABound) {
  SKIP_WITHOUT_QEMU_IMG();
  const auto path = directory_.path() + "/large";
  qemu_img("create -q -f qcow2 " + path + " 2P");
  EXPECT_EQ(open_error({.path = path}), "no error");
  for (const std::string_view size : {"2305843009213693952", "2251799813685760"}) {
    qemu_img(fmt::format("create -q -f qcow2 -o cluster_size=2M {} {}", path, size));
    EXPECT_SENTENCE(open_error({.path = path}), fmt::format("has {} bytes, which is too", size));
  }
}

TEST_F(OpenTest, SaysWhichBackingFileIsWrong) {
  directory_.file("base", 1u << 20);
  const auto overlay = make("overlay", {.backing_path = "base"});
  ASSERT_EQ(::unlink((directory_.path() + "/base").c_str()), 0);
  const auto error = open_error({.path = overlay});
  EXPECT_SENTENCE(error, "backing file of disk");
  EXPECT_SENTENCE(error, "base' does not exist");
}

TEST_F(OpenTest, ARunningMachineKeepsItsBackingFileFromBeingWritten) {
  const auto base = make("base");
  const auto one = make("one", {.backing_path = "base"});
  const auto two = make("two", {.backing_path = "base"});
  {
    const auto machine = open_disk({.path = one});
    ASSERT_TRUE(machine);
    EXPECT_SENTENCE(open_error({.path = base}), "in use by another vmm");
    EXPECT_EQ(open_error({.path = base, .read_only = true}), "no error");
    EXPECT_EQ(open_error({.path = two}), "no error") << "two overlays share their base";
    EXPECT_SENTENCE(open_error({.path = one}), "in use by another vmm");
  }
  const auto writer = open_disk({.path = base});
  ASSERT_TRUE(writer);
  EXPECT_SENTENCE(open_error({.path = one}), "in use by another vmm");
}

// Found by fuzzing: offset 0 of a compressed cluster was taken for the one unpacked last, of which
// there was none.
TEST_F(OpenTest, ACompressedClusterInTheHeaderIsAnError) {
  const auto path = make("image");
  {
    const auto disk = DrivenDisk::open({.path = path});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(0, std::string(65536, 'x')), 0);
  }
  const auto content = TemporaryDirectory::content(path);
  const auto table = load<std::uint64_t>(&content[3 * 65536]) & kOffsetMask;
  patch(path, table, kCompressed, 8);
  const auto disk = DrivenDisk::open({.path = path});
  ASSERT_TRUE(disk);
  std::string text(512, ' ');
  const iovec buffer{text.data(), text.size()};
  Request request;
  request.length = 512;
  request.buffers = {&buffer, 1};
  EXPECT_EQ(disk->run(request), EIO);
  EXPECT_EQ(disk->read(65536, 512), std::string(512, '\0'));
}

// ---- a raw disk whose format was not said

TEST_F(OpenTest, AProbedRawDiskCannotBecomeAnImage) {
  std::string magic(4096, '\0');
  magic.replace(0, 4, "QFI\xfb");
  for (const auto format : {ImageFormat::automatic, ImageFormat::raw}) {
    const auto path = directory_.file("raw", 1u << 20);
    const auto disk = DrivenDisk::open({.path = path, .format = format});
    ASSERT_TRUE(disk);
    const bool guarded = format == ImageFormat::automatic;
    EXPECT_EQ(disk->write(0, magic), guarded ? EPERM : 0);
    EXPECT_EQ(TemporaryDirectory::content(path).starts_with("QFI\xfb"), !guarded);
    EXPECT_EQ(disk->write(512, magic), 0) << "elsewhere it means nothing";
    // In pieces, and beside other content.
    std::string first = "QF", second = "I\xfb", rest(508, 'x');
    const iovec buffers[] = {
        {first.data(), 2}, {nullptr, 0}, {second.data(), 2}, {rest.data(), 508}};
    Request request;
    request.operation = Operation::write;
    request.length = 512;
    request.buffers = buffers;
    EXPECT_EQ(disk->run(request), guarded ? EPERM : 0);
    first = "qf";
    EXPECT_EQ(disk->run(request), 0);
    EXPECT_EQ(disk->read(0, 512), "qfI\xfb" + rest);
    EXPECT_EQ(disk->write(0, std::string(1u << 20, 'y')), 0);
    EXPECT_EQ(disk->read(512, 4096), std::string(4096, 'y'));
  }
}

}  // namespace
}  // namespace vmm::disk::qcow2
