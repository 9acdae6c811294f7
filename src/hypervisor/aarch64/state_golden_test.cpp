// The bytes of each kind and version of the processor's state: src/hypervisor/machine/
// state_golden_test.cpp says what a failure means.
#include <gtest/gtest.h>

#include <cstring>

#include "arch/state.h"
#include "src/hypervisor/snapshot/digest.h"

namespace vmm {
namespace {

template <typename State>
void expect_digest(const State& state, std::string_view kind, std::size_t size,
                   const std::string& digest) {
  EXPECT_EQ(State::kKind, kind);
  EXPECT_EQ(State::kVersion, 1u);
  const auto bytes = state::encode(state);
  EXPECT_EQ(bytes.size(), size);
  EXPECT_EQ(snapshot::digest_of(bytes), digest);
  const auto back = state::decode<State>(bytes);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(state::encode(*back), bytes);
}

TEST(StateGolden, Processor) {
  arch::VcpuState vcpu;
  std::memset(&vcpu.init, 1, sizeof vcpu.init);
  std::memset(&vcpu.mp_state, 2, sizeof vcpu.mp_state);
  vcpu.registers = {{3, {std::byte{4}}}, {5, std::vector<std::byte>(16, std::byte{6})}};
  std::memset(&vcpu.events, 7, sizeof vcpu.events);
  expect_digest(vcpu, "arm64-vcpu", 193,
                "b53b4e9a1fab83abfa8d78ef556bdc358fd370110cea5bf32667a89ad214e945");
  arch::InterruptControllerState chips;
  chips.distributor = {{1, 2}, {3, 4}};
  chips.redistributors = {{5, 6}};
  chips.levels = {{7, 8}};
  chips.processor_interfaces = {{9, 10}};
  chips.its = {{11, 12}};
  expect_digest(chips, "arm64-gic", 234,
                "3c94aef642cf004f1dcb31993c2c0937d917e0348e78575774c01494a867e3ca");
  expect_digest(arch::ClockState{1, 2}, "arm64-clock", 28,
                "6a95ec7d49a183f239f50b8f736dc56b077d287091a644655d90e2975b783d12");
}

}  // namespace
}  // namespace vmm
