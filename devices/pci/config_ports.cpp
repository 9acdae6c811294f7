#include "devices/pci/config_ports.h"

namespace vmm::pci {
namespace {

constexpr std::uint32_t kEnable = 1u << 31;

}  // namespace

std::optional<std::uint64_t> ConfigPorts::target(std::uint64_t offset) {
  std::lock_guard lock(mutex_);
  if ((address_ & kEnable) == 0 || offset < kAddressSize) return std::nullopt;
  // Bus, device and function lie eight bits lower than in ECAM's twelve-bit registers.
  const std::uint64_t function = (address_ >> 8) & 0xffff;
  return function << 12 | (address_ & 0xfc) | (offset - kAddressSize);
}

std::uint64_t ConfigPorts::read(std::uint64_t offset, unsigned size) {
  if (offset == 0 && size == 4) {
    std::lock_guard lock(mutex_);
    return address_;
  }
  const auto at = target(offset);
  return at ? host_.ecam().read(*at, size) : ~std::uint64_t{0};
}

void ConfigPorts::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset == 0) {
    std::lock_guard lock(mutex_);
    if (size == 4) address_ = static_cast<std::uint32_t>(value);
  } else if (const auto at = target(offset)) {
    host_.ecam().write(*at, size, value);
  }
}

}  // namespace vmm::pci
