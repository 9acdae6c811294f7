// The bytes of each kind and version of state. A test that fails here says that snapshots of today
// can no longer be read: give the section a new version, and read the old one too
// (snapshot/FORMAT.md). Those of the processor are in the architecture's folder.
#include <gtest/gtest.h>

#include "devices/legacy/state.h"
#include "devices/virtio/balloon/state.h"
#include "devices/virtio/blk/state.h"
#include "devices/virtio/net/state.h"
#include "devices/virtio/pci/state.h"
#include "devices/virtio/pmem/state.h"
#include "devices/virtio/rng/state.h"
#include "devices/virtio/vsock/state.h"
#include "src/hypervisor/snapshot/memory_layer.h"
#include "src/hypervisor/state/archive.h"

namespace vmm {
namespace {

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

std::vector<std::byte> unhex(std::string_view text) {
  std::vector<std::byte> bytes;
  for (; !text.empty(); text.remove_prefix(2)) {
    bytes.push_back(static_cast<std::byte>(std::stoi(std::string(text.substr(0, 2)), nullptr, 16)));
  }
  return bytes;
}

template <typename State>
void expect_golden(const State& state, std::string_view kind, std::uint32_t version,
                   const std::string& golden) {
  EXPECT_EQ(State::kKind, kind);
  EXPECT_EQ(State::kVersion, version);
  const auto bytes = state::encode(state);
  EXPECT_EQ(hex(bytes), golden);
  const auto back = state::decode<State>(bytes);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(hex(state::encode(*back)), golden);
}

TEST(StateGolden, LegacyDevices) {
  expect_golden(RtcState{-3, 7, {1, 2}}, "cmos-rtc", 1,
                "010008000000fdffffffffffffff020001000000070300020000000102");
  expect_golden(PowerPortsState{2}, "power-ports", 1, "01000100000002");
  expect_golden(UartState{{std::byte{65}}, true, false, true, 1, 2, 3, 4, 5, 12}, "uart16550", 1,
                "0100010000004102000100000001030001000000000400010000000105000100000001060001000000"
                "020700010000000308000100000004090001000000050a00020000000c00");
}

TEST(StateGolden, PrimeCellDevices) {
  expect_golden(Pl011State{{std::byte{65}}, true, 1, 2, 3, 4, 5, 6, 7}, "pl011", 1,
                "0100010000004102000100000001030002000000010004000200000002000500020000000300060002"
                "0000000400070002000000050008000200000006000900020000000700");
  expect_golden(Pl031State{-3, 1, 2, 3}, "pl031", 1,
                "010008000000fdffffffffffffff020004000000010000000300040000000200000004000400000003"
                "000000");
}

TEST(StateGolden, VirtioDevices) {
  expect_golden(virtio::RngState{}, "virtio-rng", 1, "");
  expect_golden(virtio::BalloonState{1, 2}, "virtio-balloon", 1,
                "0100040000000100000002000400000002000000");
  expect_golden(virtio::BlockState{4096, 512, "S"}, "virtio-blk", 1,
                "01000800000000100000000000000200040000000002000003000100000053");
  expect_golden(virtio::NetState{{1, 2, 3, 4, 5, 6}, 2, 3}, "virtio-net", 1,
                "01000600000001020304050602000200000002000300080000000300000000000000");
  expect_golden(
      virtio::PmemState{1, 2, {3}, {4}}, "virtio-pmem", 1,
      "010008000000010000000000000002000800000002000000000000000300080000000300000000000000"
      "0400080000000400000000000000");
  expect_golden(virtio::VsockState{42}, "virtio-vsock", 1, "0100040000002a000000");
}

TEST(StateGolden, Pci) {
  expect_golden(pci::ConfigPortsState{0x80000800}, "pci-config-ports", 1, "01000400000000080080");
  expect_golden(pci::HostState{{{1, 2}}}, "pci-host", 1, "0100080000000100020000000102");
  virtio::TransportState state{.function = {{1, 2, 3}},
                               .msix = {{{1, 2, 3, 0, true}}, true, false},
                               .status = 15,
                               .isr = 1,
                               .generation = 2,
                               .config_vector = 3,
                               .device_feature_select = 4,
                               .driver_feature_select = 5,
                               .driver_features = 6,
                               .queue_select = 7,
                               .active = true,
                               .queues = {{8, 9, 10, 11, 12, true, 13, 14}}};
  expect_golden(
      state, "virtio-pci", 1,
      "01000900000001000300000001020302004900000001003500000001002f00000001000400000001000000020004"
      "00000002000000030004000000030000000400040000000000000005000100000001020001000000010300010000"
      "00000300010000000f04000100000001050001000000020600020000000300070004000000040000000800040000"
      "000500000009000800000006000000000000000a000200000007000b0001000000010c0057000000010051000000"
      "010002000000080002000800000009000000000000000300080000000a000000000000000400080000000b000000"
      "000000000500020000000c00060001000000010700020000000d000800020000000e00");
}

TEST(StateGolden, Memory) {
  expect_golden(snapshot::MemoryLayer{}, "memory-layer", 1, "01000100000001020000000000");
  expect_golden(snapshot::MemoryLayer{false, {{4096, 8192}}}, "memory-layer", 1,
                "0100010000000002000000000003001000000000100000000000000020000000000000");
  // The list of extents before it was flat.
  const auto former = state::decode<snapshot::MemoryLayer>(
      unhex("0100010000000002002200000001001c00000001000800000000100000000000000200080000000020"
            "000000000000"));
  ASSERT_TRUE(former) << former.error().message();
  EXPECT_EQ(former->extents, (std::vector<snapshot::Extent>{{4096, 8192}}));
}

}  // namespace
}  // namespace vmm
