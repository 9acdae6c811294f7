#include "arch/registers.h"

#include <cerrno>

namespace vmm::arch {

Result<void> get_register(const kvm::Vcpu& vcpu, std::uint64_t id, std::span<std::byte> value) {
  kvm_one_reg reg{id, reinterpret_cast<std::uint64_t>(value.data())};
  TRY(kvm::call(vcpu.fd(), KVM_GET_ONE_REG, "KVM_GET_ONE_REG", &reg));
  return {};
}

Result<void> set_register(const kvm::Vcpu& vcpu, std::uint64_t id,
                          std::span<const std::byte> value) {
  kvm_one_reg reg{id, reinterpret_cast<std::uint64_t>(value.data())};
  TRY(kvm::call(vcpu.fd(), KVM_SET_ONE_REG, "KVM_SET_ONE_REG", &reg));
  return {};
}

Result<void> set_register(const kvm::Vcpu& vcpu, std::uint64_t id, std::uint64_t value) {
  return set_register(vcpu, id, std::as_bytes(std::span(&value, 1)));
}

Result<std::vector<std::uint64_t>> register_list(const kvm::Vcpu& vcpu) {
  // With no room the kernel says E2BIG and how many there are.
  kvm_reg_list none{};
  if (::ioctl(vcpu.fd(), KVM_GET_REG_LIST, &none) < 0 && errno != E2BIG) {
    return fail_errno("KVM_GET_REG_LIST");
  }
  kvm::Table<kvm_reg_list, std::uint64_t> list(none.n);
  list.header()->n = none.n;
  TRY(kvm::call(vcpu.fd(), KVM_GET_REG_LIST, "KVM_GET_REG_LIST", list.header()));
  return std::vector<std::uint64_t>(list.entries(), list.entries() + list.header()->n);
}

}  // namespace vmm::arch
