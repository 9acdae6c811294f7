// The registers of a vCPU, one by one (KVM_GET_ONE_REG, KVM_SET_ONE_REG; api.rst, 4.68).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/kvm/kvm.h"

namespace vmm::arch {

// Of the general registers and what belongs to them.
constexpr std::uint64_t core_register(std::size_t offset) {
  return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | offset / sizeof(__u32);
}
inline constexpr std::uint64_t kRegisterPc = core_register(offsetof(kvm_regs, regs.pc));
inline constexpr std::uint64_t kRegisterX0 = core_register(offsetof(kvm_regs, regs.regs));

// Bytes of a register, as its number says.
constexpr std::size_t register_size(std::uint64_t id) {
  return std::size_t{1} << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
}

// `value` has register_size(id) bytes.
Result<void> get_register(const kvm::Vcpu& vcpu, std::uint64_t id, std::span<std::byte> value);
Result<void> set_register(const kvm::Vcpu& vcpu, std::uint64_t id,
                          std::span<const std::byte> value);
Result<void> set_register(const kvm::Vcpu& vcpu, std::uint64_t id, std::uint64_t value);

// All that KVM keeps of the vCPU, once it is initialized (KVM_GET_REG_LIST).
Result<std::vector<std::uint64_t>> register_list(const kvm::Vcpu& vcpu);

}  // namespace vmm::arch
