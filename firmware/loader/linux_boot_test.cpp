#include "firmware/loader/linux_boot.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "firmware/little_endian.h"
#include "firmware/loader/boot_params.h"
#include "firmware/loader/initrd.h"
#include "firmware/loader/pvh_start_info.h"
#include "firmware/loader/synthetic_kernel.h"

namespace vmm::loader {
namespace {

using testing::Bytes;

constexpr BootLayout kLayout{.info = {0x7000}, .command_line = {0x20000}};

std::unique_ptr<GuestMemory> memory_of(std::uint64_t size) {
  const MemoryRange range{GuestAddress{0}, size};
  return std::move(*GuestMemory::create(std::span(&range, 1)));
}

LinuxBoot sample() {
  LinuxBoot boot;
  boot.ram = {{GuestAddress{0}, 0xc0000000}, {GuestAddress{1ull << 32}, 1u << 30}};
  boot.reserved = {{GuestAddress{0xe0000000}, 1u << 20, MemoryType::reserved},
                   {GuestAddress{0xe0000}, 0x2000, MemoryType::acpi}};
  boot.command_line = "console=ttyS0 quiet";
  boot.initrd = LoadedInitrd{GuestAddress{0x7f000000}, 0x123456};
  boot.rsdp = GuestAddress{0xe0000};
  return boot;
}

TEST(MemoryMap, TakesReservedRangesOutOfRam) {
  const auto map = memory_map(sample());
  ASSERT_TRUE(map) << map.error().message();
  const std::vector<MemoryMapEntry> expected = {
      {GuestAddress{0}, 0x9fc00, MemoryType::ram},
      {GuestAddress{0x9fc00}, 0xe0000 - 0x9fc00, MemoryType::reserved},
      {GuestAddress{0xe0000}, 0x2000, MemoryType::acpi},
      {GuestAddress{0xe2000}, 0x100000 - 0xe2000, MemoryType::reserved},
      {GuestAddress{0x100000}, 0xc0000000 - 0x100000, MemoryType::ram},
      {GuestAddress{0xe0000000}, 1u << 20, MemoryType::reserved},
      {GuestAddress{1ull << 32}, 1u << 30, MemoryType::ram}};
  EXPECT_EQ(*map, expected);
}

TEST(MemoryMap, RangesInTheMiddleOfRam) {
  LinuxBoot boot;
  boot.ram = {{GuestAddress{0}, 64u << 20}};
  boot.reserved = {{GuestAddress{32u << 20}, 0x1000, MemoryType::reserved},
                   {GuestAddress{(32u << 20) + 0x1000}, 0x1000, MemoryType::reserved},
                   {GuestAddress{(64u << 20) - 0x1000}, 0x2000, MemoryType::reserved},
                   {GuestAddress{0x9f000}, 0x1000, MemoryType::reserved}};
  const auto map = memory_map(boot);
  ASSERT_TRUE(map) << map.error().message();
  const std::vector<MemoryMapEntry> expected = {
      {GuestAddress{0}, 0x9f000, MemoryType::ram},
      {GuestAddress{0x9f000}, 0x61000, MemoryType::reserved},
      {GuestAddress{1u << 20}, 31u << 20, MemoryType::ram},
      {GuestAddress{32u << 20}, 0x2000, MemoryType::reserved},
      {GuestAddress{(32u << 20) + 0x2000}, (32u << 20) - 0x3000, MemoryType::ram},
      {GuestAddress{(64u << 20) - 0x1000}, 0x2000, MemoryType::reserved}};
  EXPECT_EQ(*map, expected);
}

TEST(MemoryMap, RefusesWhatContradictsItself) {
  LinuxBoot boot = sample();
  boot.reserved.push_back({GuestAddress{0xe1000}, 0x1000, MemoryType::reserved});
  EXPECT_EQ(memory_map(boot).error().message(), "the memory ranges at 0xe0000 and 0xe1000 overlap");
  boot = sample();
  boot.ram.push_back({GuestAddress{UINT64_MAX - 0xfff}, 0x2000});
  EXPECT_EQ(memory_map(boot).error().message(),
            "the memory range 0xfffffffffffff000+0x2000 is empty or wraps");
  boot = sample();
  for (std::uint64_t i = 0; i < 200; ++i) {
    boot.reserved.push_back({GuestAddress{0x10000000 + i * 0x2000}, 0x1000, MemoryType::reserved});
  }
  EXPECT_EQ(memory_map(boot).error().message(), "the memory map has 407 entries, more than 128");
}

TEST(CommandLine, IsBounded) {
  const auto memory = memory_of(1u << 20);
  LinuxBoot boot = sample();
  boot.command_line = std::string(2047, 'x');
  EXPECT_TRUE(write_command_line(boot, kLayout, *memory));
  EXPECT_EQ(*memory->read<std::uint16_t>(GuestAddress{0x20000 + 2046}), 'x');  // and the NUL
  boot.command_line += 'x';
  EXPECT_EQ(write_command_line(boot, kLayout, *memory).error().message(),
            "the kernel's command line has 2048 characters, this kernel takes 2047");
  boot.command_line = std::string("a\0b", 3);
  EXPECT_EQ(write_command_line(boot, kLayout, *memory).error().message(),
            "the kernel's command line has a NUL character in it");
}

TEST(BootParams, SayWhatTheKernelReads) {
  const auto memory = memory_of(1u << 20);
  LinuxBoot boot = sample();
  boot.setup_header = Bytes(0x6a + 0x11, std::byte{0x5a});
  ASSERT_TRUE(write_boot_params(boot, kLayout, *memory));
  const auto page = *memory->slice(kLayout.info, 4096);
  EXPECT_EQ(get_le<std::uint64_t>(page, 0x70), 0xe0000u);
  EXPECT_EQ(get_le<std::uint8_t>(page, 0x1e8), 7);
  EXPECT_EQ(get_le<std::uint8_t>(page, 0x1ef), 0);  // the sentinel says: properly filled in
  EXPECT_EQ(get_le<std::uint8_t>(page, 0x1f1), 0x5a);
  EXPECT_EQ(get_le<std::uint8_t>(page, 0x210), 0xff);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x218), 0x7f000000u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x21c), 0x123456u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x228), 0x20000u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x0c8), 0u);
  EXPECT_EQ(get_le<std::uint64_t>(page, 0x2d0 + 20), 0x9fc00u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x2d0 + 20 + 16), 2u);
  EXPECT_EQ(get_le<std::uint64_t>(page, 0x2d0 + 6 * 20), 1ull << 32);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x2d0 + 2 * 20 + 16), 3u);
  const auto line = *memory->slice(kLayout.command_line, 20);
  EXPECT_STREQ(reinterpret_cast<const char*>(line.data()), "console=ttyS0 quiet");

  boot.setup_header.clear();
  boot.initrd.reset();
  ASSERT_TRUE(write_boot_params(boot, kLayout, *memory));
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x202), 0x53726448u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0x218), 0u);
  EXPECT_FALSE(write_boot_params(boot, {.info = {0xff800}, .command_line = {0}}, *memory));
}

TEST(PvhStartInfo, SaysWhatTheKernelReads) {
  const auto memory = memory_of(1u << 20);
  LinuxBoot boot = sample();
  ASSERT_TRUE(write_pvh_start_info(boot, kLayout, *memory));
  const auto page = *memory->slice(kLayout.info, 4096);
  EXPECT_EQ(get_le<std::uint32_t>(page, 0), 0x336ec578u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 4), 1u);
  EXPECT_EQ(get_le<std::uint32_t>(page, 12), 1u);
  EXPECT_EQ(get_le<std::uint64_t>(page, 24), 0x20000u);
  EXPECT_EQ(get_le<std::uint64_t>(page, 32), 0xe0000u);
  const auto module = get_le<std::uint64_t>(page, 16) - kLayout.info.value;
  EXPECT_EQ(get_le<std::uint64_t>(page, module), 0x7f000000u);
  EXPECT_EQ(get_le<std::uint64_t>(page, module + 8), 0x123456u);
  EXPECT_EQ(get_le<std::uint64_t>(page, module + 16), 0u);
  const auto map = get_le<std::uint64_t>(page, 40) - kLayout.info.value;
  EXPECT_EQ(get_le<std::uint32_t>(page, 48), 7u);
  EXPECT_EQ(get_le<std::uint64_t>(page, map + 8), 0x9fc00u);
  EXPECT_EQ(get_le<std::uint32_t>(page, map + 2 * 24 + 16), 3u);

  boot.initrd.reset();
  ASSERT_TRUE(write_pvh_start_info(boot, kLayout, *memory));
  EXPECT_EQ(get_le<std::uint32_t>(page, 12), 0u);
  EXPECT_FALSE(write_pvh_start_info(boot, {.info = {1ull << 32}, .command_line = {0}}, *memory));
}

class InitrdTest : public ::testing::Test {
 protected:
  std::string error_of(const std::string& path) const {
    const auto initrd =
        load_initrd(path, *memory_, GuestAddress{1u << 20}, GuestAddress{~0ull}, cache_);
    return initrd ? "accepted" : initrd.error().message();
  }

  testing::TemporaryDirectory directory_;
  std::string content_of(const LoadedInitrd& initrd) const {
    const auto bytes = *memory_->slice(initrd.address, initrd.size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::unique_ptr<GuestMemory> memory_ = memory_of(4u << 20);
  PayloadCache cache_{directory_.path() + "/cache"};
};

TEST_F(InitrdTest, GoesToTheTop) {
  Bytes bytes(5000, std::byte{9});
  bytes.back() = std::byte{1};
  const std::string path = directory_.file("initrd", bytes);
  auto initrd = load_initrd(path, *memory_, GuestAddress{1u << 20}, GuestAddress{~0ull}, cache_);
  ASSERT_TRUE(initrd) << initrd.error().message();
  EXPECT_EQ(initrd->address, GuestAddress{(4u << 20) - 8192});
  EXPECT_EQ(initrd->size, 5000u);
  EXPECT_EQ(*memory_->read<std::uint8_t>(initrd->address + 4999), 1);
  EXPECT_EQ(*memory_->read<std::uint8_t>(initrd->address + 5000), 0);
  // Below the address that a kernel names; it is that of the last byte.
  initrd = load_initrd(path, *memory_, GuestAddress{1u << 20}, GuestAddress{0x2fffff}, cache_);
  ASSERT_TRUE(initrd);
  EXPECT_EQ(initrd->address, GuestAddress{0x300000 - 8192});
}

TEST_F(InitrdTest, ComesFromAFileWithoutANameToo) {
  const UniqueFd file(::open(directory_.path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(write_all(file.get(), Bytes(5000, std::byte{9})));
  const auto initrd = load_initrd("/proc/self/fd/" + std::to_string(file.get()), *memory_,
                                  GuestAddress{1u << 20}, GuestAddress{~0ull}, cache_);
  ASSERT_TRUE(initrd) << initrd.error().message();
  EXPECT_EQ(initrd->size, 5000u);
}

TEST_F(InitrdTest, EveryErrorNamesTheFile) {
  EXPECT_EQ(error_of("/no/such"), "cannot open the initrd '/no/such': No such file or directory");
  EXPECT_EQ(error_of("/tmp"), "'/tmp' is not a regular file, an initrd must be");
  const std::string empty = directory_.file("empty", {});
  EXPECT_EQ(error_of(empty), "the initrd '" + empty + "' is empty");
  const std::string large = directory_.file("large", Bytes(3u << 20));
  EXPECT_EQ(error_of(large), "accepted");  // it just fits
  const std::string larger = directory_.file("larger", Bytes((3u << 20) + 1));
  EXPECT_EQ(error_of(larger),
            "the initrd '" + larger +
                "' has 3145729 bytes, the guest's memory has room for 3145728 between 0x100000 and "
                "0x400000");
  EXPECT_FALSE(load_initrd(large, *memory_, GuestAddress{64u << 20}, GuestAddress{~0ull}, cache_));
}

Bytes gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(text.size() + 1000);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST_F(InitrdTest, APackedArchiveIsUnpackedOnce) {
  const std::string archive = "070701" + std::string(100'000, 'a');
  Bytes zstd(ZSTD_compressBound(archive.size()));
  zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), archive.data(), archive.size(), 3));
  for (const auto& packed : {gzip(archive), zstd}) {
    const std::string path = directory_.file("packed", packed);
    for (int i = 0; i < 2; ++i) {
      const auto initrd =
          load_initrd(path, *memory_, GuestAddress{1u << 20}, GuestAddress{~0ull}, cache_);
      ASSERT_TRUE(initrd) << initrd.error().message();
      EXPECT_TRUE(content_of(*initrd) == archive);
    }
    struct stat status{};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_TRUE(cache_.find(FileIdentity::of(status)));
  }
}

// What is no archive, has something behind it, is damaged or takes too much of the memory.
TEST_F(InitrdTest, WhatTheKernelMustSeeToIsLeftAsItIs) {
  const std::string archive = "070701" + std::string(100'000, 'a');
  const Bytes one = gzip(archive);
  Bytes two = one;
  two.insert(two.end(), one.begin(), one.end());
  Bytes damaged = gzip(archive);
  damaged[damaged.size() / 2] ^= std::byte{0xff};
  const auto large = gzip("070701" + std::string(500'000, 'a'));
  for (const auto& file : {gzip("no archive at all"), two, damaged, large}) {
    const std::string path = directory_.file("file", file);
    const auto initrd =
        load_initrd(path, *memory_, GuestAddress{1u << 20}, GuestAddress{~0ull}, cache_);
    ASSERT_TRUE(initrd) << initrd.error().message();
    EXPECT_TRUE(std::ranges::equal(*memory_->slice(initrd->address, initrd->size), file));
  }
}

}  // namespace
}  // namespace vmm::loader
