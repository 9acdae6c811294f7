// States that are not what their lengths say, put into a vCPU of this host's KVM. No guest runs.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "arch/interrupts.h"
#include "arch/state.h"
#include "arch/vcpu.h"

namespace vmm::arch {
namespace {

class VcpuStateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto kvm = kvm::Kvm::open();
    if (!kvm) GTEST_SKIP() << kvm.error().message();
    kvm_.emplace(std::move(*kvm));
    vm_ = std::move(kvm_->create_vm(0).value());
    create_interrupt_controller(*vm_).value();
    vcpu_ = std::move(vm_->create_vcpu(0).value());
    VcpuSetup::create(*kvm_, *vm_, 1).value().apply(*vcpu_).value();
    start_interrupt_controller(*vm_).value();
    state_ = save_vcpu(*kvm_, *vm_, *vcpu_).value();
  }
  std::string error_of(const Result<void>& result) {
    return result ? "none" : result.error().message();
  }
  std::string restore(const VcpuState& state) {
    if (auto model = restore_model(*vcpu_, state); !model) return model.error().message();
    return error_of(restore_vcpu(*vm_, *vcpu_, state, {}));
  }
  void set_nested(std::size_t size, std::uint32_t said) {
    state_.nested.assign(size, std::byte{0});
    kvm_nested_state header{};
    header.size = said;
    std::memcpy(state_.nested.data(), &header, std::min(size, sizeof header));
  }
  std::optional<kvm::Kvm> kvm_;
  std::unique_ptr<kvm::Vm> vm_;
  std::unique_ptr<kvm::Vcpu> vcpu_;
  VcpuState state_;
};

TEST_F(VcpuStateTest, TakesBackWhatItGave) { EXPECT_EQ(restore(state_), "none"); }

TEST_F(VcpuStateTest, RefusesNestedStateThatIsShorterThanItSays) {
  set_nested(128, 128 + 4096);
  EXPECT_EQ(restore(state_), "128 bytes of nested virtualization state, whose header says 4224");
  set_nested(128, 127);
  EXPECT_EQ(restore(state_), "128 bytes of nested virtualization state, whose header says 127");
  set_nested(8, 8);
  EXPECT_EQ(restore(state_), "8 bytes of nested virtualization state, whose header says 0");
}

TEST_F(VcpuStateTest, RefusesListsThatAreTooLong) {
  auto state = state_;
  state.cpuid.resize(257);
  EXPECT_EQ(restore(state), "257 entries of CPUID: expected at most 256");
  state = state_;
  state.msrs.resize(1u << 20);
  EXPECT_EQ(restore(state), "1048576 MSRs: expected at most 4096");
  state = state_;
  state.xsave.resize(1u << 20);
  EXPECT_NE(restore(state).find("1048576 bytes of vector state"), std::string::npos);
  state.xsave.clear();
  EXPECT_EQ(restore(state), "none") << "the rest is zero";
}

TEST_F(VcpuStateTest, RefusesAnInterruptControllerInThePlaceOfAnother) {
  auto chips = save_interrupt_controller(*vm_, 1).value();
  EXPECT_EQ(error_of(restore_interrupt_controller(*vm_, chips)), "none");
  chips.pic_slave.chip_id = KVM_IRQCHIP_IOAPIC;
  EXPECT_EQ(error_of(restore_interrupt_controller(*vm_, chips)),
            "the state of interrupt controller 1 is one of number 2");
}

}  // namespace
}  // namespace vmm::arch
