#include <gtest/gtest.h>

#include "arch/address_plan.h"
#include "arch/board.h"
#include "arch/interrupts.h"
#include "arch/registers.h"
#include "arch/state.h"
#include "arch/vcpu.h"
#include "firmware/fdt/tree.h"

namespace vmm::arch {
namespace {

TEST(AddressPlan, HasRoomForAllVcpus) {
  EXPECT_LE(kGicRedistributors.value + kMaxVcpus * kGicRedistributorSize, kSerial);
  EXPECT_LE(kGicDistributor.base.value + kGicDistributor.size, kGicIts.base.value);
  EXPECT_LE(kGicIts.base.value + kGicIts.size, kGicRedistributors.value);
  EXPECT_LE(kPciWindow.base.value + kPciWindow.size, kEcam.base.value);
  EXPECT_LE(kEcam.base.value + kEcam.size, kMemory.value);
}

TEST(AddressPlan, NamesVcpusAsKvmDoes) {
  EXPECT_EQ(affinity_of(0), 0u);
  EXPECT_EQ(affinity_of(15), 15u);
  EXPECT_EQ(affinity_of(16), 0x100u);
  EXPECT_EQ(affinity_of(511), 0x1f0fu);
}

TEST(AddressPlan, MemoryIsOnePiece) {
  const auto ranges = memory_ranges(6ull << 30);
  ASSERT_EQ(ranges.size(), 1u);
  EXPECT_EQ(ranges[0].base.value, 1ull << 30);
  EXPECT_EQ(ranges[0].size, 6ull << 30);
}

TEST(Registers, HaveTheSizeOfTheirNumber) {
  EXPECT_EQ(register_size(kRegisterPc), 8u);
  EXPECT_EQ(register_size(KVM_REG_ARM64_SVE_VLS), 64u);
  EXPECT_EQ(register_size(KVM_REG_ARM64 | KVM_REG_SIZE_U32), 4u);
}

// All of the machine's ioctls, and its states there and back, on a real KVM.
TEST(Kvm, TakesAMachine) {
  auto kvm = kvm::Kvm::open();
  if (!kvm) GTEST_SKIP() << kvm.error().message();
  constexpr unsigned kVcpus = 2;
  const auto memory = std::move(GuestMemory::create(memory_ranges(kMinMemory)).value());
  const auto make = [&](std::vector<std::unique_ptr<kvm::Vcpu>>& vcpus) {
    auto vm = std::move(kvm->create_vm(vm_type(*kvm, memory->size()).value()).value());
    EXPECT_TRUE(vm->add_memory(*memory));
    const auto created = create_interrupt_controller(*vm);
    EXPECT_TRUE(created) << created.error().message();
    for (unsigned i = 0; i < kVcpus; ++i) vcpus.push_back(std::move(vm->create_vcpu(i).value()));
    const auto started = start_interrupt_controller(*vm);
    EXPECT_TRUE(started) << started.error().message();
    return vm;
  };
  std::vector<std::unique_ptr<kvm::Vcpu>> vcpus;
  const auto vm = make(vcpus);
  const auto setup = VcpuSetup::create(*kvm, *vm, kVcpus);
  ASSERT_TRUE(setup) << setup.error().message();
  for (const auto& vcpu : vcpus) {
    const auto applied = setup->apply(*vcpu);
    ASSERT_TRUE(applied) << applied.error().message();
  }
  const auto entered = set_entry(*vcpus[0], *memory, {kKernel});
  ASSERT_TRUE(entered) << entered.error().message();
  EXPECT_NE(describe_exit(*vcpus[0]).find("pc 0x40200000"), std::string::npos);

  auto event = std::move(EventFd::create().value());
  EXPECT_TRUE(vm->attach(kPciWindow.base + 0x3000, event));
  vm->detach(kPciWindow.base + 0x3000, event);
  auto route = std::move(vm->create_route().value());
  EXPECT_TRUE(route->set_message({kGicIts.base.value + 0x10040, 1, 8}));
  EXPECT_TRUE(route->set_enabled(true));
  EXPECT_TRUE(route->set_enabled(false));

  const auto chips = save_interrupt_controller(*vm, kVcpus);
  ASSERT_TRUE(chips) << chips.error().message();
  const auto clock = save_clock(*vm);
  ASSERT_TRUE(clock) << clock.error().message();
  std::vector<VcpuState> states;
  for (const auto& vcpu : vcpus) {
    auto state = save_vcpu(*kvm, *vm, *vcpu);
    ASSERT_TRUE(state) << state.error().message();
    states.push_back(std::move(*state));
  }
  std::vector<std::unique_ptr<kvm::Vcpu>> others;
  const auto other = make(others);
  const auto fits = check_processors(*kvm, *other, states);
  ASSERT_TRUE(fits) << fits.error().message();
  for (unsigned i = 0; i < kVcpus; ++i) {
    const auto modelled = restore_model(*others[i], states[i]);
    ASSERT_TRUE(modelled) << modelled.error().message();
  }
  const auto shift = restore_clock(*other, *clock);
  ASSERT_TRUE(shift) << shift.error().message();
  const auto restored = restore_interrupt_controller(*other, *chips);
  ASSERT_TRUE(restored) << restored.error().message();
  for (unsigned i = 0; i < kVcpus; ++i) {
    const auto vcpu = restore_vcpu(*other, *others[i], states[i], *shift);
    ASSERT_TRUE(vcpu) << vcpu.error().message();
  }
  EXPECT_NE(describe_exit(*others[0]).find("pc 0x40200000"), std::string::npos);
}

TEST(Kvm, SaysWhyThereIsNone) {
  const auto missing = kvm::Kvm::open("/nowhere/kvm");
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("there is no /nowhere/kvm"), std::string::npos);
}

}  // namespace
}  // namespace vmm::arch
