#include "firmware/loader/bzimage.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "firmware/little_endian.h"
#include "firmware/loader/synthetic_kernel.h"

namespace vmm::loader {
namespace {

using testing::Bytes;

constexpr Compression kSupported[] = {Compression::gzip, Compression::xz, Compression::lz4,
                                      Compression::zstd};

std::string error_of(const Bytes& bytes) {
  const auto source = ImageSource::borrowed(bytes);
  const auto image = parse_bzimage(source);
  if (!image) return image.error().message();
  const auto payload = decompress_payload(*image, source);
  return payload ? "accepted" : payload.error().message();
}

TEST(BzImage, ReadsTheHeader) {
  const Bytes file = testing::make_bzimage(testing::make_elf({}), Compression::zstd, {});
  const auto image = parse_bzimage(ImageSource::borrowed(file));
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->version, 0x020f);
  EXPECT_TRUE(image->entry64);
  EXPECT_TRUE(image->relocatable);
  EXPECT_EQ(image->code_offset, 2048u);
  EXPECT_EQ(image->code_offset + image->code_size, file.size());
  EXPECT_EQ(image->preferred_address, 0x1000000u);
  EXPECT_EQ(image->init_size, 0x20000u);
  EXPECT_EQ(image->initrd_address_max, 0x7fffffffu);
  EXPECT_EQ(image->command_line_max, 2047u);
  EXPECT_EQ(image->compression, Compression::zstd);
  EXPECT_EQ(image->uncompressed_size, testing::make_elf({}).size());
  EXPECT_EQ(image->setup_header.size(), 0x202u + 0x6a - 0x1f1);

  // The setup header alone says the same.
  const BzImage again = parse_setup_header(image->setup_header);
  EXPECT_EQ(again.preferred_address, image->preferred_address);
  EXPECT_EQ(again.command_line_max, image->command_line_max);
  EXPECT_EQ(again.setup_header, image->setup_header);
}

TEST(BzImage, DecompressesEveryKind) {
  // Larger than a block of lz4, and with relocations behind the ELF file.
  Bytes payload = testing::make_elf({});
  payload.resize((9u << 20) + 123, std::byte{7});
  for (Compression kind : kSupported) {
    const Bytes file = testing::make_bzimage(payload, kind, {});
    const auto source = ImageSource::borrowed(file);
    const auto image = parse_bzimage(source);
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->compression, kind);
    const auto bytes = decompress_payload(*image, source);
    ASSERT_TRUE(bytes) << bytes.error().message();
    ASSERT_EQ(bytes->size(), payload.size());
    EXPECT_EQ(std::memcmp(bytes->data(), payload.data(), payload.size()), 0)
        << compression_name(kind);
  }
}

TEST(BzImage, NamesWhatIsWrong) {
  const auto with = [](const testing::BzImageOptions& options) {
    return error_of(testing::make_bzimage(testing::make_elf({}), Compression::gzip, options));
  };
  EXPECT_EQ(with({.version = 0x0207}), "it speaks the boot protocol 2.07, at least 2.08 is needed");
  EXPECT_EQ(with({.load_flags = 0}), "it is a zImage, which is loaded below 1 MiB, not a bzImage");
  EXPECT_EQ(error_of(Bytes(100)), "it has 100 bytes, too few for a bzImage");
  EXPECT_EQ(error_of(Bytes(1000)), "it is not a bzImage");
  for (const auto& [kind, name] : {std::pair(Compression::bzip2, "bzip2"),
                                   {Compression::lzma, "lzma"},
                                   {Compression::lzo, "lzo"}}) {
    EXPECT_EQ(
        error_of(testing::make_bzimage(testing::make_elf({}), kind, {})),
        fmt::format("compression by {} is not supported, only gzip, xz, lz4 and zstd are", name));
  }

  const Bytes good = testing::make_bzimage(testing::make_elf({}), Compression::zstd, {});
  const auto changed = [&](auto change) {
    Bytes file = good;
    change(file);
    return error_of(file);
  };
  EXPECT_EQ(changed([](Bytes& f) { put_le(f, 0x248, UINT32_MAX); }),
            fmt::format("its payload of {} bytes at 4294967295 is outside of its code of {} bytes",
                        get_le<std::uint32_t>(good, 0x24c), good.size() - 2048));
  EXPECT_EQ(changed([](Bytes& f) { f.resize(f.size() - 1); }),
            fmt::format("it is truncated: it has {} bytes, its header says {}", good.size() - 1,
                        good.size()));
  EXPECT_EQ(changed([](Bytes& f) { put_le(f, 0x1f4, std::uint32_t{0}); }), "it has no code");
  const std::size_t size_at =
      2048 + get_le<std::uint32_t>(good, 0x248) + get_le<std::uint32_t>(good, 0x24c) - 4;
  EXPECT_EQ(changed([&](Bytes& f) { put_le(f, size_at, UINT32_MAX); }),
            "its payload has 4294967295 bytes when decompressed, more than 536870912");
  EXPECT_EQ(changed([&](Bytes& f) { put_le(f, size_at, std::uint32_t{17000}); }),
            "the zstd payload has 16384 bytes when decompressed, not the 17000 that it says");
  EXPECT_EQ(changed([&](Bytes& f) { put_le(f, size_at, std::uint32_t{0}); }),
            "the zstd payload is empty");
}

// No decoder writes beyond the size that it was given, or is happy with less.
TEST(BzImage, AWrongSizeIsAnError) {
  const Bytes elf = testing::make_elf({});
  for (Compression kind : kSupported) {
    const Bytes stream = testing::compress(elf, kind);
    EXPECT_TRUE(decompress(kind, stream, elf.size())) << compression_name(kind);
    for (std::size_t size : {elf.size() - 1, elf.size() + 1, std::size_t{1}, elf.size() * 100}) {
      EXPECT_FALSE(decompress(kind, stream, size)) << compression_name(kind) << " " << size;
    }
    for (std::size_t length = 0; length + 1 < stream.size();
         length = length < 64 ? length + 1 : length + 101) {
      EXPECT_FALSE(decompress(kind, std::span(stream).first(length), elf.size()))
          << compression_name(kind) << " " << length;
    }
  }
}

TEST(BzImage, TruncatedAnywhereIsAnError) {
  const Bytes good = testing::make_bzimage(testing::make_elf({}), Compression::gzip, {});
  for (std::size_t size = 0; size < good.size(); size = size < 0x300 ? size + 1 : size + 37) {
    EXPECT_FALSE(parse_bzimage(ImageSource::borrowed(std::span(good).first(size)))) << size;
  }
}

TEST(BzImage, RandomCorruptionIsSurvived) {
  std::mt19937 random(2);
  for (Compression kind : kSupported) {
    const Bytes good = testing::make_bzimage(testing::make_elf({}), kind, {});
    unsigned parsed = 0;
    for (int round = 0; round < 1500; ++round) {
      Bytes file = good;
      const unsigned changes = 1 + random() % 8;
      for (unsigned i = 0; i < changes; ++i) {
        const std::size_t at = random() % 2 == 0 ? 0x1f1 + random() % 0x80 : random() % file.size();
        file[at] = static_cast<std::byte>(random());
      }
      const auto source = ImageSource::borrowed(file);
      const auto image = parse_bzimage(source);
      if (!image) continue;
      ++parsed;
      ASSERT_LE(image->code_offset + image->code_size, file.size());
      ASSERT_LE(image->payload_offset + image->payload_size, file.size());
      if (image->uncompressed_size > 1u << 20) continue;  // nothing new, only slow
      const auto bytes = decompress_payload(*image, source);
      if (bytes) {
        ASSERT_EQ(bytes->size(), image->uncompressed_size);
      }
    }
    EXPECT_GT(parsed, 100u);
  }
}

}  // namespace
}  // namespace vmm::loader
