#include "src/hypervisor/bus/bus.h"

#include <gtest/gtest.h>

namespace vmm {
namespace {

class Recorder : public IoHandler {
 public:
  std::uint64_t read(std::uint64_t offset, unsigned size) override { return offset * 16 + size; }
  void write(std::uint64_t offset, unsigned, std::uint64_t value) override {
    last_offset = offset;
    last_value = value;
  }
  std::uint64_t last_offset = 99;
  std::uint64_t last_value = 0;
};

TEST(Bus, FindsTheHandlerByOffset) {
  Bus bus;
  Recorder recorder;
  ASSERT_TRUE(bus.add(0x3f8, 8, recorder, "serial"));
  EXPECT_EQ(bus.read(0x3fa, 1), 2u * 16 + 1);
  bus.write(0x3f8, 1, 'x');
  EXPECT_EQ(recorder.last_offset, 0u);
  EXPECT_EQ(recorder.last_value, std::uint64_t{'x'});
}

TEST(Bus, NobodysAddressReadsAsOnes) {
  Bus bus;
  Recorder recorder;
  ASSERT_TRUE(bus.add(0x3f8, 8, recorder, "serial"));
  EXPECT_EQ(bus.read(0x3f7, 1), ~std::uint64_t{0});
  EXPECT_EQ(bus.read(0x400, 1), ~std::uint64_t{0});
  EXPECT_EQ(bus.read(0x3ff, 2), ~std::uint64_t{0}) << "crosses the end of the range";
  bus.write(0x400, 1, 1);
  EXPECT_EQ(recorder.last_offset, 99u);
  ASSERT_TRUE(bus.add(0x500, 3, recorder, "odd"));
  EXPECT_EQ(bus.read(0x502, 1), 2u * 16 + 1);
  EXPECT_EQ(bus.read(0x502, 2), ~std::uint64_t{0}) << "aligned, and crosses it all the same";
}

// What KVM's emulator can make of a guest's instruction: any size up to 8, at any address.
TEST(Bus, OnlyAlignedAccessesOfARegistersSizeReachAHandler) {
  Bus bus;
  Recorder recorder;
  ASSERT_TRUE(bus.add(0x1000, 0x1000, recorder, "registers"));
  for (unsigned size = 0; size <= 9; ++size) {
    for (std::uint64_t offset = 0; offset < 32; ++offset) {
      const bool whole = size == 1 || size == 2 || size == 4 || size == 8;
      const bool reaches = whole && offset % size == 0;
      recorder.last_offset = 99;
      bus.write(0x1000 + offset, size, 1);
      EXPECT_EQ(recorder.last_offset, reaches ? offset : 99u) << size << " bytes at " << offset;
      EXPECT_EQ(bus.read(0x1000 + offset, size), reaches ? offset * 16 + size : ~std::uint64_t{0})
          << size << " bytes at " << offset;
    }
  }
}

TEST(Bus, RefusesOverlap) {
  Bus bus;
  Recorder recorder;
  ASSERT_TRUE(bus.add(0x100, 0x10, recorder, "a"));
  EXPECT_FALSE(bus.add(0x10f, 1, recorder, "b"));
  EXPECT_FALSE(bus.add(0xf0, 0x11, recorder, "c"));
  EXPECT_TRUE(bus.add(0x110, 1, recorder, "d"));
}

}  // namespace
}  // namespace vmm
