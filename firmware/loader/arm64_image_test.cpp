#include "firmware/loader/arm64_image.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zstd.h>

#include <cstring>

#include "firmware/little_endian.h"
#include "firmware/loader/synthetic_kernel.h"

namespace vmm::loader {
namespace {

using testing::Bytes;
using testing::TemporaryDirectory;

constexpr GuestAddress kRam{0x4000'0000};
constexpr GuestAddress kBase{0x4020'0000};

Bytes make_image(std::uint64_t text_offset = 0, std::uint64_t memory_size = 0x20000,
                 std::uint64_t flags = 0xa) {
  Bytes image(0x10000);
  for (std::size_t i = 64; i < image.size(); ++i) image[i] = std::byte(i * 7);
  put_le(image, 0x08, text_offset);
  put_le(image, 0x10, memory_size);
  put_le(image, 0x18, flags);
  std::memcpy(image.data() + 0x38, "ARM\x64", 4);
  return image;
}

// As `zstd <Image` makes it: from a pipe, which has no size that the frame could say.
Bytes zstd_of_a_pipe(const Bytes& bytes) {
  Bytes out(ZSTD_compressBound(bytes.size()));
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  while (in.pos < in.size) (void)ZSTD_compressStream2(context, &to, &in, ZSTD_e_continue);
  while (ZSTD_compressStream2(context, &to, &in, ZSTD_e_end) != 0) {
  }
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

Bytes make_zboot(const Bytes& stream) {
  constexpr std::size_t kOffset = 0x400;
  Bytes file(kOffset + stream.size() + 100);
  std::memcpy(file.data(), "MZ\0\0zimg", 8);
  put_le(file, 0x08, static_cast<std::uint32_t>(kOffset));
  put_le(file, 0x0c, static_cast<std::uint32_t>(stream.size()));
  std::ranges::copy(stream, file.begin() + kOffset);
  return file;
}

class Arm64ImageTest : public ::testing::Test {
 protected:
  Result<LoadedArm64Kernel> load(const Bytes& file) {
    path_ = directory_.file("Image", file);
    memory_ = std::move(GuestMemory::create({{{kRam, 8u << 20}}}).value());
    return load_arm64_kernel(path_, *memory_, kBase, PayloadCache(directory_.path() + "/cache"));
  }
  void expect_loaded(const Bytes& file, const Bytes& image, std::uint64_t text_offset = 0) {
    const auto loaded = load(file);
    ASSERT_TRUE(loaded) << loaded.error().message();
    EXPECT_EQ(loaded->entry.value, kBase.value + text_offset);
    EXPECT_EQ(loaded->end.value, loaded->entry.value + 0x20000);
    const auto bytes = memory_->slice(loaded->entry, image.size());
    ASSERT_TRUE(bytes);
    EXPECT_TRUE(std::ranges::equal(*bytes, image));
  }
  void expect_refused(const Bytes& file, std::string_view words) {
    const auto loaded = load(file);
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().message().find(words), std::string::npos) << loaded.error().message();
    EXPECT_NE(loaded.error().message().find(path_), std::string::npos);
  }
  TemporaryDirectory directory_;
  std::string path_;
  std::unique_ptr<GuestMemory> memory_;
};

TEST_F(Arm64ImageTest, LoadsThePlainImage) {
  expect_loaded(make_image(), make_image());
  expect_loaded(make_image(0x80000), make_image(0x80000), 0x80000);
}

TEST_F(Arm64ImageTest, UnpacksGzipAndZstd) {
  const Bytes image = make_image();
  expect_loaded(testing::compress(image, Compression::gzip), image);
  expect_loaded(testing::compress(image, Compression::zstd), image);
  expect_loaded(zstd_of_a_pipe(image), image);
}

TEST_F(Arm64ImageTest, TakesThePayloadOutOfAnEfiApplication) {
  const Bytes image = make_image();
  expect_loaded(make_zboot(testing::compress(image, Compression::gzip)), image);
  expect_loaded(make_zboot(zstd_of_a_pipe(image)), image);
}

TEST_F(Arm64ImageTest, KeepsWhatItUnpacked) {
  const Bytes image = make_image();
  expect_loaded(testing::compress(image, Compression::zstd), image);
  struct stat status{};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  const PayloadCache cache(directory_.path() + "/cache");
  const auto entry = cache.find(FileIdentity::of(status));
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->payload_size, image.size());
  // Loaded from there now.
  const auto again = load_arm64_kernel(path_, *memory_, kBase, cache);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->entry.value, kBase.value);
}

TEST_F(Arm64ImageTest, RefusesWhatIsNone) {
  expect_refused(testing::make_bzimage(testing::make_elf({}), Compression::gzip, {}),
                 "a kernel for x86-64");
  expect_refused(testing::make_elf({}), "an ELF file");
  expect_refused(Bytes(1000), "not the Image");
  Bytes image = make_image();
  image.resize(62);
  expect_refused(image, "truncated");
  expect_refused(make_image(0, 0), "3.17");
  expect_refused(make_image(0, 0x20000, 1), "big-endian");
  expect_refused(make_image(3u << 20), "corrupt");
  expect_refused(make_image(0, 64u << 20), "do not fit");
  expect_refused(testing::compress(make_image(), Compression::xz), "compressed by xz");
  expect_refused(make_zboot(Bytes(100)), "compressed by an unknown method");
  expect_refused(testing::compress(testing::make_elf({}), Compression::gzip), "an ELF file");
  Bytes zboot = make_zboot(testing::compress(make_image(), Compression::gzip));
  put_le(zboot, 0x08, std::uint32_t{0x10000000});
  expect_refused(zboot, "outside");
  for (const auto kind : {Compression::gzip, Compression::zstd}) {
    Bytes stream = testing::compress(make_image(), kind);
    stream.resize(stream.size() / 2);
    expect_refused(stream, "payload");
  }
  EXPECT_FALSE(load_arm64_kernel(directory_.path(), *memory_, kBase, PayloadCache("")));
}

}  // namespace
}  // namespace vmm::loader
