#include <gtest/gtest.h>

#include "devices/pci/config_ports.h"
#include "devices/pci/host.h"
#include "devices/pci/msix.h"

namespace vmm::pci {
namespace {

class TestFunction : public Function {
 public:
  TestFunction() : Function({0x1af4, 0x1041, 0x1af4, 0x41, 1, 0x020000}, 0x8000) {
    const std::uint8_t body[] = {0x10, 0, 0xaa, 0xbb};
    const std::uint8_t writable[] = {0, 0xc0};
    capability = add_capability(kCapabilityMsix, body, writable);
  }
  std::uint64_t read_bar(std::uint64_t offset, unsigned) override { return offset; }
  void write_bar(std::uint64_t offset, unsigned, std::uint64_t value) override {
    last_offset = offset;
    last_value = value;
  }
  void bar_moved() override { ++moves; }
  void capability_written(unsigned offset, unsigned, std::uint32_t) override {
    written_at = offset;
  }
  unsigned capability = 0, written_at = 0;
  int moves = 0;
  std::uint64_t last_offset = 0, last_value = 0;
};

struct RecordingSink : MsiSink {
  void send(const MsiMessage& message) override { sent.push_back(message); }
  Result<std::unique_ptr<MsiRoute>> create_route() override { return fail("not in this test"); }
  std::vector<MsiMessage> sent;
};

class PciTest : public ::testing::Test {
 protected:
  PciTest() { EXPECT_TRUE(host_.add(function_)); }
  std::uint64_t ecam(unsigned reg, unsigned size) { return host_.ecam().read(kSlot1 | reg, size); }
  void write_ecam(unsigned reg, unsigned size, std::uint64_t value) {
    host_.ecam().write(kSlot1 | reg, size, value);
  }
  static constexpr std::uint64_t kSlot1 = 1u << 15;
  PciHost host_{MemoryRange{GuestAddress{0xc000'0000}, 0x1000'0000}};
  TestFunction function_;
};

TEST_F(PciTest, ShowsTheIdentity) {
  EXPECT_EQ(ecam(0, 4), 0x10411af4u);
  EXPECT_EQ(ecam(8, 4), 0x02000001u);
  EXPECT_EQ(ecam(0x2c, 4), 0x00411af4u);
  EXPECT_EQ(ecam(0x100, 4), 0u) << "no extended capabilities";
  EXPECT_EQ(host_.ecam().read(8, 4) >> 8, 0x060000u) << "a host bridge in slot 0";
  EXPECT_EQ(host_.ecam().read(2u << 15, 4), ~std::uint64_t{0}) << "no device in slot 2";
  EXPECT_EQ(host_.ecam().read(1u << 12, 4), ~std::uint64_t{0}) << "no function 1";
}

TEST_F(PciTest, BarTellsItsSizeAndMoves) {
  EXPECT_EQ(ecam(0x10, 4), 0xc000'0000u);
  EXPECT_FALSE(function_.bar_address()) << "decoding starts off";
  write_ecam(0x10, 4, 0xffff'ffff);
  EXPECT_EQ(ecam(0x10, 4), 0xffff'8000u);
  write_ecam(0x10, 4, 0xc001'0000);
  write_ecam(4, 2, kCommandMemory);
  EXPECT_EQ(function_.bar_address()->value, 0xc001'0000u);
  EXPECT_EQ(function_.moves, 1);
  host_.window().write(0x1'0010, 4, 7);
  EXPECT_EQ(function_.last_offset, 0x10u);
  EXPECT_EQ(host_.window().read(0x1'7fff, 1), 0x7fffu);
  EXPECT_EQ(host_.window().read(0x1'7fff, 2), ~std::uint64_t{0}) << "crosses the BAR's end";
}

TEST_F(PciTest, OnlyWritableBitsChange) {
  write_ecam(0, 4, 0);
  EXPECT_EQ(ecam(0, 4), 0x10411af4u);
  const unsigned capability = function_.capability;
  EXPECT_EQ(ecam(0x34, 1), capability);
  write_ecam(capability, 4, 0xffff'ffff);
  EXPECT_EQ(ecam(capability, 4), 0xc010'0011u);
  EXPECT_EQ(function_.written_at, capability);
  write_ecam(capability + 1, 4, 0);  // misaligned: ignored
  EXPECT_EQ(ecam(capability, 4), 0xc010'0011u);
}

TEST_F(PciTest, PortsReachTheSameRegisters) {
  ConfigPorts ports(host_);
  EXPECT_EQ(ports.read(4, 4), ~std::uint64_t{0}) << "off until an address is written";
  ports.write(0, 4, 0x8000'0800);
  EXPECT_EQ(ports.read(0, 4), 0x8000'0800u);
  EXPECT_EQ(ports.read(4, 4), 0x10411af4u);
  EXPECT_EQ(ports.read(6, 2), 0x1041u);
  ports.write(0, 4, 0x8000'0804);
  ports.write(4, 2, kCommandMemory);
  EXPECT_TRUE(function_.bar_address());
  ports.write(0, 4, 0x8000'1000);
  EXPECT_EQ(ports.read(4, 4), ~std::uint64_t{0}) << "no device in slot 2";
  ports.write(0, 1, 0);
  EXPECT_EQ(ports.read(0, 4), 0x8000'1000u) << "only whole words are an address";
}

TEST(Msix, NoReadPassesTheEndOfAnEntry) {
  RecordingSink sink;
  MsixTable table(sink, 2);
  table.write_table(8, 8, 0x1'8765'4321);
  for (unsigned size = 1; size <= 8; ++size) {
    for (std::uint64_t offset = 0; offset < 32; ++offset) {
      const bool inside = offset % 16 + size <= 16;
      EXPECT_EQ(table.read_table(offset, size) == ~std::uint64_t{0}, !inside)
          << size << " bytes at " << offset;
    }
  }
  EXPECT_EQ(table.read_table(12, 4), 1u);
  EXPECT_EQ(table.read_table(8, 8), 0x1'8765'4321u);
}

// PCI 3.0, 6.8.2.7: the two lowest bits of an address are zero, whatever is written.
TEST(Msix, AnAddressIsAWordsOwn) {
  RecordingSink sink;
  MsixTable table(sink, 1);
  table.write_table(0, 4, 0xfee0'0003);
  EXPECT_EQ(table.read_table(0, 4), 0xfee0'0000u);
}

TEST(Msix, SendsWhenUnmaskedAndRemembersWhenMasked) {
  RecordingSink sink;
  MsixTable table(sink, 2);
  table.write_table(16, 4, 0xfee0'0000);
  table.write_table(24, 4, 0x41);
  table.signal(1);
  EXPECT_TRUE(sink.sent.empty());
  EXPECT_EQ(table.read_pending(0, 8), 2u);
  table.write_table(28, 4, 0);
  EXPECT_TRUE(sink.sent.empty()) << "not enabled yet";
  table.set_control(kMsixEnable | kMsixFunctionMask);
  EXPECT_TRUE(sink.sent.empty()) << "function masked";
  table.set_control(kMsixEnable);
  ASSERT_EQ(sink.sent.size(), 1u);
  EXPECT_EQ(sink.sent[0], (MsiMessage{0xfee0'0000, 0x41}));
  EXPECT_EQ(table.read_pending(0, 8), 0u);
  table.signal(1);
  EXPECT_EQ(sink.sent.size(), 2u);
  table.signal(0xffff);  // NO_VECTOR
  table.write_table(32, 4, 1);
  EXPECT_EQ(table.read_table(32, 4), ~std::uint64_t{0});
  EXPECT_EQ(sink.sent.size(), 2u);
}

}  // namespace
}  // namespace vmm::pci
