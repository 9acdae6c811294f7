#include "firmware/loader/kernel.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "firmware/little_endian.h"
#include "firmware/loader/synthetic_kernel.h"
#include "src/base/text.h"

namespace vmm::loader {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;

std::unique_ptr<GuestMemory> memory_of(std::uint64_t size) {
  const MemoryRange range{GuestAddress{0}, size};
  return std::move(*GuestMemory::create(std::span(&range, 1)));
}

class KernelTest : public ::testing::Test {
 protected:
  std::string error_of(const std::string& path) const {
    const auto kernel = load_kernel(path, *memory_, cache_);
    return kernel ? "accepted" : kernel.error().message();
  }
  std::string error_of_file(const std::string& name, const Bytes& bytes) const {
    std::string error = error_of(directory_.file(name, bytes));
    // The directory has another name each time.
    for (std::size_t at; (at = error.find(directory_.path())) != std::string::npos;) {
      error.replace(at, directory_.path().size(), "DIR");
    }
    return error;
  }

  testing::TemporaryDirectory directory_;
  PayloadCache cache_{directory_.path() + "/cache"};
  std::unique_ptr<GuestMemory> memory_ = memory_of(64u << 20);
};

TEST_F(KernelTest, AnElfFileIsLoaded) {
  const Bytes elf = testing::make_elf({});
  const auto kernel = load_kernel(directory_.file("vmlinux", elf), *memory_, cache_);
  ASSERT_TRUE(kernel) << kernel.error().message();
  EXPECT_EQ(kernel->entry_kind, EntryKind::pvh);
  EXPECT_EQ(kernel->entry, GuestAddress{0x1000100});
  EXPECT_EQ(kernel->end, GuestAddress{0x1210000});
  EXPECT_TRUE(kernel->setup_header.empty());
  EXPECT_EQ(kernel->initrd_address_max, 0x7fffffffu);
  EXPECT_EQ(kernel->command_line_max, 2047u);
  EXPECT_FALSE(fs::exists(directory_.path() + "/cache"));  // there is nothing to keep
}

TEST_F(KernelTest, WithoutTheNoteItIsEnteredIn64BitMode) {
  const Bytes elf = testing::make_elf({.pvh_entry = std::nullopt});
  const auto kernel = load_kernel(directory_.file("vmlinux", elf), *memory_, cache_);
  ASSERT_TRUE(kernel) << kernel.error().message();
  EXPECT_EQ(kernel->entry_kind, EntryKind::linux64);
  EXPECT_EQ(kernel->entry, GuestAddress{0x1000000});
}

TEST_F(KernelTest, LinuxIsEnteredIn64BitModeWhereItSaysWhere) {
  const Bytes elf = testing::make_elf({.is_linux = true});
  const auto kernel = load_kernel(directory_.file("vmlinux", elf), *memory_, cache_);
  ASSERT_TRUE(kernel) << kernel.error().message();
  EXPECT_EQ(kernel->entry_kind, EntryKind::linux64);
  EXPECT_EQ(kernel->entry, GuestAddress{0x1000000});
  const Bytes virtual_entry = testing::make_elf({.entry = 0xffffffff81000000, .is_linux = true});
  const auto by_pvh = load_kernel(directory_.file("other", virtual_entry), *memory_, cache_);
  ASSERT_TRUE(by_pvh) << by_pvh.error().message();
  EXPECT_EQ(by_pvh->entry_kind, EntryKind::pvh);
}

TEST_F(KernelTest, ABzImageIsDecompressedOnce) {
  const Bytes elf = testing::make_elf({});
  for (Compression kind :
       {Compression::gzip, Compression::xz, Compression::lz4, Compression::zstd}) {
    const std::string name(compression_name(kind));
    const std::string path = directory_.file(name, testing::make_bzimage(elf, kind, {}));
    for (int start = 0; start < 2; ++start) {
      const auto memory = memory_of(64u << 20);
      const auto image = open_kernel(path, cache_);
      ASSERT_TRUE(image) << image.error().message();
      EXPECT_EQ(image->source.fd() >= 0, start == 1) << name;  // the second is from the cache
      const auto kernel = place_kernel(*image, *memory);
      ASSERT_TRUE(kernel) << kernel.error().message();
      EXPECT_EQ(kernel->entry_kind, EntryKind::linux64);
      EXPECT_EQ(kernel->entry, GuestAddress{0x1000000});
      EXPECT_EQ(kernel->remark, "");
      EXPECT_EQ(kernel->command_line_max, 2047u);
      EXPECT_EQ(get_le<std::uint16_t>(kernel->setup_header, 0x206 - 0x1f1), 0x020f);
      const auto text = *memory->slice(GuestAddress{0x1000000}, testing::kTextSize);
      EXPECT_EQ(std::memcmp(text.data(), elf.data() + testing::kTextOffset, text.size()), 0);
    }
  }
}

TEST_F(KernelTest, AnotherKernelUnderTheSamePathIsNoticed) {
  const auto bzimage = [](std::uint64_t entry) {
    return testing::make_bzimage(testing::make_elf({.entry = entry}), Compression::zstd, {});
  };
  const std::string path = directory_.file("bzImage", bzimage(0x1000100));
  ASSERT_TRUE(load_kernel(path, *memory_, cache_));
  directory_.file("bzImage", bzimage(0x1000200));
  const auto kernel = load_kernel(path, *memory_, cache_);
  ASSERT_TRUE(kernel) << kernel.error().message();
  EXPECT_EQ(kernel->entry, GuestAddress{0x1000200});
}

TEST_F(KernelTest, ABrokenCacheIsPassedOver) {
  const std::string path = directory_.file(
      "bzImage", testing::make_bzimage(testing::make_elf({}), Compression::zstd, {}));
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  ASSERT_TRUE(cache_.store(FileIdentity::of(status), {}, Bytes(5000)));  // no kernel
  EXPECT_EQ(error_of(path), "accepted");
  EXPECT_TRUE(load_kernel(path, *memory_, PayloadCache("/proc/no/such")));
}

TEST_F(KernelTest, WhatIsNotUnderstoodDecompressesItself) {
  const Bytes file = testing::make_bzimage(testing::make_elf({}), Compression::lzo, {});
  const auto kernel = load_kernel(directory_.file("bzImage", file), *memory_, cache_);
  ASSERT_TRUE(kernel) << kernel.error().message();
  EXPECT_EQ(kernel->entry_kind, EntryKind::linux64);
  EXPECT_EQ(kernel->entry, GuestAddress{0x1000200});
  EXPECT_EQ(kernel->end, GuestAddress{0x1020000});  // init_size
  EXPECT_TRUE(kernel->remark.ends_with("compression by lzo is not supported")) << kernel->remark;
  const auto code = *memory_->slice(GuestAddress{0x1000000}, 0x1000);
  EXPECT_EQ(std::memcmp(code.data(), file.data() + 2048, code.size()), 0);

  EXPECT_EQ(error_of_file("old", testing::make_bzimage(testing::make_elf({}), Compression::bzip2,
                                                       {.extended_load_flags = 0})),
            "the kernel 'DIR/old' cannot be used: it has no 64-bit entry, and compression by bzip2 "
            "is not supported");
}

TEST_F(KernelTest, EveryErrorNamesTheFile) {
  EXPECT_EQ(error_of("/no/such/kernel"),
            "cannot open the kernel '/no/such/kernel': No such file or directory");
  EXPECT_EQ(error_of("/tmp"), "'/tmp' is a directory, not a kernel");
  EXPECT_EQ(error_of("/dev/null"), "'/dev/null' is not a regular file, a kernel must be");
  EXPECT_EQ(error_of_file("empty", {}), "the kernel 'DIR/empty' is empty");
  EXPECT_EQ(error_of_file("tiny", Bytes(100)), "'DIR/tiny' has 100 bytes, too few for a kernel");
  EXPECT_EQ(error_of_file("zeroes", Bytes(4096)),
            "'DIR/zeroes' is not a kernel: neither a bzImage nor an ELF file");

  Bytes arm(4096);
  std::memcpy(arm.data() + 0x38, "ARM\x64", 4);
  EXPECT_EQ(error_of_file("Image", arm),
            "'DIR/Image' is a kernel for arm64, this machine is x86-64");
  EXPECT_EQ(error_of_file("vmlinux.arm64", testing::make_elf({.machine = 183})),
            "the kernel 'DIR/vmlinux.arm64' cannot be used: it is a kernel for arm64, this machine "
            "is x86-64");
  EXPECT_EQ(
      error_of_file("vmlinux.gz", testing::compress(testing::make_elf({}), Compression::gzip)),
      "'DIR/vmlinux.gz' is compressed by gzip, it has to be decompressed first");
  EXPECT_EQ(error_of_file("low", testing::make_elf(
                                     {.text = 0x10000, .entry = 0x10000, .pvh_entry = 0x10000})),
            "the kernel 'DIR/low' cannot be loaded: it is to be loaded at 0x10000, below 0x100000, "
            "where a machine has its own data");
  EXPECT_EQ(error_of_file(
                "high", testing::make_elf(
                            {.text = 1ull << 32, .entry = 1ull << 32, .pvh_entry = std::nullopt})),
            "the kernel 'DIR/high' cannot be loaded: its segment 0x100000000+0x2000 does not fit "
            "into the memory of the guest");
  EXPECT_EQ(error_of_file("big", testing::make_bzimage(testing::make_elf({}), Compression::lzo,
                                                       {.init_size = 0x40000000})),
            "the kernel 'DIR/big' cannot be loaded: its 1G at 0x1000000 do not fit into the memory "
            "of the guest");
}

// Kernels of distributions: VMM_TEST_KERNELS=/boot/vmlinuz-6.1:/path/to/vmlinux
TEST_F(KernelTest, RealKernels) {
  const char* paths = ::getenv("VMM_TEST_KERNELS");
  if (paths == nullptr) GTEST_SKIP() << "VMM_TEST_KERNELS names no kernels";
  for (std::string_view path : split(paths, ':')) {
    const auto memory = memory_of(512u << 20);
    for (int start = 0; start < 2; ++start) {
      const auto before = std::chrono::steady_clock::now();
      const auto kernel = load_kernel(std::string(path), *memory, cache_);
      const auto took = std::chrono::steady_clock::now() - before;
      ASSERT_TRUE(kernel) << kernel.error().message();
      EXPECT_EQ(kernel->remark, "");
      EXPECT_GE(kernel->entry, kLowestKernelAddress);
      EXPECT_LT(kernel->entry, kernel->end);
      std::cout << path << ": " << (kernel->entry_kind == EntryKind::pvh ? "PVH" : "64-bit")
                << " entry at 0x" << std::hex << kernel->entry.value << ", end 0x"
                << kernel->end.value << std::dec << ", in "
                << std::chrono::duration_cast<std::chrono::microseconds>(took).count() << " us\n";
    }
  }
}

}  // namespace
}  // namespace vmm::loader
