#include "firmware/loader/elf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "firmware/little_endian.h"
#include "firmware/loader/synthetic_kernel.h"

namespace vmm::loader {
namespace {

using testing::Bytes;

std::string error_of(const Bytes& bytes) {
  const auto image = parse_elf(ImageSource::borrowed(bytes));
  return image ? "accepted" : image.error().message();
}

std::unique_ptr<GuestMemory> small_memory() {
  const MemoryRange range{GuestAddress{0}, 32u << 20};
  return std::move(*GuestMemory::create(std::span(&range, 1)));
}

TEST(Elf, ReadsSegmentsAndEntries) {
  const Bytes elf = testing::make_elf({});
  const auto image = parse_elf(ImageSource::borrowed(elf));
  ASSERT_TRUE(image) << image.error().message();
  ASSERT_EQ(image->segments.size(), 2u);
  EXPECT_EQ(image->begin(), GuestAddress{0x1000000});
  EXPECT_EQ(image->end(), GuestAddress{0x1210000});
  EXPECT_EQ(image->segments[0].file_offset, testing::kTextOffset);
  EXPECT_EQ(image->segments[1].file_size, testing::kDataSize);
  EXPECT_EQ(image->entry, GuestAddress{0x1000000});
  EXPECT_EQ(image->pvh_entry, GuestAddress{0x1000100});
  EXPECT_FALSE(image->is_linux);
  const Bytes linux_elf = testing::make_elf({.is_linux = true});
  EXPECT_TRUE(parse_elf(ImageSource::borrowed(linux_elf))->is_linux);
}

TEST(Elf, LoadsWhatIsInTheFile) {
  const Bytes elf = testing::make_elf({});
  const auto source = ImageSource::borrowed(elf);
  const auto memory = small_memory();
  ASSERT_TRUE(load_elf(*parse_elf(source), source, *memory));
  const auto text = *memory->slice(GuestAddress{0x1000000}, testing::kTextSize);
  EXPECT_EQ(std::memcmp(text.data(), elf.data() + testing::kTextOffset, text.size()), 0);
  const auto data = *memory->slice(GuestAddress{0x1200000}, testing::kDataSize);
  EXPECT_EQ(std::memcmp(data.data(), elf.data() + testing::kDataOffset, data.size()), 0);
  EXPECT_EQ(*memory->read<std::uint64_t>(GuestAddress{0x1201000}), 0u);  // bss
}

TEST(Elf, RefusesWhatDoesNotFitIntoTheGuest) {
  const Bytes elf =
      testing::make_elf({.text = 31u << 20, .entry = 31u << 20, .pvh_entry = std::nullopt});
  const auto source = ImageSource::borrowed(elf);
  const auto image = parse_elf(source);
  ASSERT_TRUE(image) << image.error().message();
  const auto loaded = load_elf(*image, source, *small_memory());
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().message(),
            "its segment 0x2100000+0x10000 does not fit into the memory of the guest");
}

TEST(Elf, AnEntryMayBeVirtualWhenThereIsTheNote) {
  const auto image =
      parse_elf(ImageSource::borrowed(testing::make_elf({.entry = 0xffffffff81000000})));
  // The bytes above died with the expression: parse_elf keeps none of them.
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_FALSE(image->entry);
  EXPECT_TRUE(image->pvh_entry);
}

TEST(Elf, NamesWhatIsWrong) {
  EXPECT_EQ(error_of(testing::make_elf({.machine = 183})),
            "it is a kernel for arm64, this machine is x86-64");
  EXPECT_EQ(error_of(testing::make_elf({.machine = 3})),
            "it is a kernel for 32-bit x86, this machine is x86-64");
  EXPECT_EQ(error_of(testing::make_elf({.machine = 999})),
            "it is a kernel for the machine 999 of ELF, this machine is x86-64");
  EXPECT_EQ(error_of(testing::make_elf({.entry = 0x5000, .pvh_entry = std::nullopt})),
            "its entry 0x5000 is outside of its segments");
  EXPECT_EQ(error_of(testing::make_elf({.pvh_entry = 0x5000})),
            "its PVH entry 0x5000 is outside of its segments");
  EXPECT_EQ(error_of(Bytes(100)), "it is not an ELF file");
  EXPECT_EQ(error_of(Bytes(10)), "it has 10 bytes, too few for an ELF file");

  const auto changed = [](auto change) {
    Bytes elf = testing::make_elf({});
    change(elf);
    return error_of(elf);
  };
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 4, std::uint8_t{1}); }),
            "it is a 32-bit ELF file, not a 64-bit");
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 16, std::uint16_t{1}); }),
            "it is an ELF file of type 1, not an executable");
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 56, std::uint16_t{0xffff}); }),
            "its program headers (65535 of 56 bytes) are not between 1 and 128 of 56 bytes");
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 32, UINT64_MAX); }),
            "the file is truncated: it has 16384 bytes, 168 are needed at offset "
            "18446744073709551615");
  // The data segment is the first program header.
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 64 + 24, std::uint64_t{0x1001000}); }),
            "its segments at 0x1000000 and 0x1001000 overlap");
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 64 + 24, UINT64_MAX - 0xfff); }),
            "its segment 0xfffffffffffff000+0x10000 is outside of any memory");
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 64 + 32, std::uint64_t{0x20000}); }),
            "its segment at 0x1200000 has 131072 bytes in the file, more than its 65536 in memory");
  EXPECT_EQ(changed([](Bytes& e) { put_le(e, 64 + 8, UINT64_MAX - 7); }),
            "it is truncated: its segment at 0x1200000 ends outside of the file of 16384 bytes");
}

TEST(Elf, TruncatedAnywhereIsAnError) {
  const Bytes elf = testing::make_elf({});
  for (std::size_t size = 0; size < elf.size(); size = size < 300 ? size + 1 : size + 97) {
    EXPECT_FALSE(parse_elf(ImageSource::borrowed(std::span(elf).first(size)))) << size;
  }
}

// Whatever is accepted keeps what the header promises.
TEST(Elf, RandomCorruptionIsSurvived) {
  const Bytes good = testing::make_elf({});
  const auto memory = small_memory();
  std::mt19937 random(1);
  unsigned accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    Bytes elf = good;
    const unsigned changes = 1 + random() % 4;
    for (unsigned i = 0; i < changes; ++i) {
      const bool notes = random() % 4 == 0;
      const std::size_t at = notes ? testing::kTextOffset + 0x800 + random() % 44 : random() % 232;
      elf[at] = static_cast<std::byte>(random() % 3 == 0 ? 0xff : random());
    }
    const auto source = ImageSource::borrowed(elf);
    const auto image = parse_elf(source);
    if (!image) continue;
    ++accepted;
    ASSERT_TRUE(image->entry || image->pvh_entry);
    for (std::size_t i = 0; i < image->segments.size(); ++i) {
      const auto& segment = image->segments[i];
      ASSERT_LE(segment.file_size, segment.memory_size);
      ASSERT_LE(segment.file_offset + segment.file_size, elf.size());
      if (i > 0) {
        ASSERT_LE(image->segments[i - 1].address + image->segments[i - 1].memory_size,
                  segment.address);
      }
    }
    (void)load_elf(*image, source, *memory);  // either is fine, memory is never left
  }
  EXPECT_GT(accepted, 100u);
}

}  // namespace
}  // namespace vmm::loader
