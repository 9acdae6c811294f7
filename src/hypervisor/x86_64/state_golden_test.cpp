// The bytes of each kind and version of the processor's state: src/hypervisor/machine/
// state_golden_test.cpp says what a failure means.
#include <gtest/gtest.h>

#include <cstring>

#include "arch/state.h"
#include "src/hypervisor/snapshot/digest.h"

namespace vmm {
namespace {

// Of large states: how long they are, and their digest.
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

template <typename T>
void fill(T& value, int with) {
  std::memset(&value, with, sizeof value);
}

TEST(StateGolden, Processor) {
  arch::VcpuState vcpu;
  vcpu.cpuid.resize(2);
  fill(vcpu.cpuid[0].entry, 1);
  fill(vcpu.cpuid[1].entry, 2);
  vcpu.tsc_khz = 3;
  fill(vcpu.mp_state, 4);
  fill(vcpu.regs, 5);
  fill(vcpu.sregs, 6);
  vcpu.xsave.assign(4096, std::byte{7});
  fill(vcpu.xcrs, 8);
  fill(vcpu.debugregs, 9);
  fill(vcpu.lapic, 10);
  vcpu.msrs = {{11, 12}, {13, 14}};
  fill(vcpu.events, 15);
  vcpu.nested.assign(128, std::byte{16});
  vcpu.has_tsc_offset = true;
  vcpu.tsc_offset = 17;
  expect_digest(vcpu, "x86-vcpu", 6553,
                "2e538cc46a4bb17b6927a2d249539ed49f99ae7e10646053a86eb45d87c750da");
  arch::InterruptControllerState chips;
  fill(chips.pic_master, 1);
  fill(chips.pic_slave, 2);
  fill(chips.io_apic, 3);
  expect_digest(chips, "x86-irqchip", 1578,
                "d76454193cef29029dc69b077b807457621cb2f549ad9bc3b6dd491e6bb4a962");
  arch::ClockState clock;
  fill(clock.clock, 1);
  clock.realtime_ns = 2;
  expect_digest(clock, "x86-clock", 68,
                "4769407b7fa2033274d989965dba51aa7668784d325653331d932ff267b6d2a5");
}

}  // namespace
}  // namespace vmm
