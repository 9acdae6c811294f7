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
