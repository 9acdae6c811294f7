#include <algorithm>
#include <cstring>

#include "arch/registers.h"
#include "arch/state.h"
#include "arch/vcpu.h"

namespace vmm::arch {
namespace {

// Read in this order before anything is restored: what the registers of the vector extension are
// like can be said until the vCPU is finalized only.
constexpr std::uint64_t kVectorLengths = KVM_REG_ARM64_SVE_VLS;

// The virtual counter, and the physical one where KVM lets it be set (since 6.4). One VM has one of
// each: they are set by the first vCPU alone.
constexpr std::uint64_t kCounter = KVM_REG_ARM_TIMER_CNT;
constexpr std::uint64_t kPhysicalCounter = KVM_REG_ARM_PTIMER_CNT;

const RegisterState* find(const VcpuState& state, std::uint64_t id) {
  const auto found = std::ranges::find(state.registers, id, &RegisterState::id);
  return found == state.registers.end() ? nullptr : &*found;
}

Result<void> check_size(const RegisterState& reg) {
  if (reg.value.size() == register_size(reg.id)) return {};
  return fail("register {:#x} has {} bytes", reg.id, reg.value.size());
}

std::uint64_t number_of(const RegisterState& reg) {
  std::uint64_t value = 0;
  std::memcpy(&value, reg.value.data(), std::min(sizeof value, reg.value.size()));
  return value;
}

// One that cannot be written is no loss while it has its value anyway.
Result<void> restore_register(const kvm::Vcpu& vcpu, const RegisterState& reg) {
  TRY(check_size(reg));
  if (set_register(vcpu, reg.id, std::span<const std::byte>(reg.value))) return {};
  std::vector<std::byte> now(reg.value.size());
  if (get_register(vcpu, reg.id, now) && now == reg.value) return {};
  RegisterState here{reg.id, now};
  return fail(
      "this host's processor or its KVM differs from what the guest was told: register {:#x} was "
      "{:#x}, here it is {:#x}",
      reg.id, number_of(reg), number_of(here));
}

}  // namespace

Result<VcpuState> save_vcpu(const kvm::Kvm& kvm, const kvm::Vm& vm, const kvm::Vcpu& vcpu) {
  VcpuState state;
  state.init = TRY(VcpuSetup::create(kvm, vm, 1)).init();
  TRY(kvm::call(vcpu.fd(), KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state.mp_state));
  for (const auto id : TRY(register_list(vcpu))) {
    RegisterState reg{id, std::vector<std::byte>(register_size(id))};
    TRY(get_register(vcpu, id, reg.value));
    state.registers.push_back(std::move(reg));
  }
  if (kvm.extension(KVM_CAP_VCPU_EVENTS) != 0) {
    TRY(kvm::call(vcpu.fd(), KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &state.events));
  }
  return state;
}

Result<void> check_processors(const kvm::Kvm& kvm, const kvm::Vm& vm,
                              std::span<const VcpuState> states) {
  const auto here = TRY(VcpuSetup::create(kvm, vm, 1)).init();
  for (const auto& state : states) {
    if (state.init.target != here.target) {
      return fail("the snapshot was taken on a processor of another kind");
    }
    for (std::size_t i = 0; i < std::size(here.features); ++i) {
      if ((state.init.features[i] & ~here.features[i]) != 0) {
        return fail(
            "this host's processor or its KVM lacks a feature (vector extension, pointer "
            "authentication) that the guest was told it has");
      }
    }
  }
  return {};
}

Result<void> restore_model(const kvm::Vcpu& vcpu, const VcpuState& state) {
  TRY(initialize(vcpu, state.init));
  if ((state.init.features[0] & 1u << KVM_ARM_VCPU_SVE) == 0) return {};
  if (const auto* lengths = find(state, kVectorLengths)) {
    TRY(check_size(*lengths));
    if (!set_register(vcpu, kVectorLengths, std::span<const std::byte>(lengths->value))) {
      return fail("this host's processor lacks a vector length that the guest was told it has");
    }
  }
  const int feature = KVM_ARM_VCPU_SVE;
  TRY(kvm::call(vcpu.fd(), KVM_ARM_VCPU_FINALIZE, "KVM_ARM_VCPU_FINALIZE", &feature));
  return {};
}

Result<void> restore_vcpu(const kvm::Vm& vm, const kvm::Vcpu& vcpu, const VcpuState& state,
                          const ClockShift& shift) {
  for (const auto& reg : state.registers) {
    if (reg.id == kVectorLengths) continue;
    if (reg.id != kCounter && reg.id != kPhysicalCounter) {
      TRY(restore_register(vcpu, reg));
    } else if (vcpu.index() == 0) {
      TRY(check_size(reg));
      const auto set = set_register(vcpu, reg.id, number_of(reg) + shift.ticks);
      if (!set && reg.id == kCounter) return std::unexpected(set.error());
    }
  }
  if (::ioctl(vm.fd(), KVM_CHECK_EXTENSION, KVM_CAP_VCPU_EVENTS) > 0) {
    TRY(kvm::call(vcpu.fd(), KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &state.events));
  }
  TRY(kvm::call(vcpu.fd(), KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state.mp_state));
  return {};
}

}  // namespace vmm::arch
