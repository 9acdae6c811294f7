#include "devices/pci/host.h"

#include <algorithm>

namespace vmm::pci {

PciHost::HostBridge::HostBridge()
    : Function({.vendor = 0x8086, .device = 0x0d57, .revision = 1, .class_code = 0x060000}, 0) {}

PciHost::PciHost(const MemoryRange& window) : range_(window), next_bar_(window.base.value) {
  functions_.push_back(&bridge_);
}

Result<void> PciHost::add(Function& function) {
  if (functions_.size() == kSlots) return fail("more than {} PCI devices", kMostFunctions);
  function.set_host(*this);
  function.set_requester(static_cast<std::uint16_t>(functions_.size() << 3));
  const std::uint64_t size = function.bar_size();
  if (size == 0) {
    functions_.push_back(&function);
    return {};
  }
  const std::uint64_t base = (next_bar_ + size - 1) & ~(size - 1);
  if (base + size > range_.base.value + range_.size) return fail("the PCI window is full");
  function.assign_bar(GuestAddress{base});
  next_bar_ = base + size;
  functions_.push_back(&function);
  return {};
}

bool PciHost::is_free(GuestAddress address, const Function& owner) const {
  const std::uint64_t begin = address.value, end = begin + owner.bar_size();
  if (begin < range_.base.value || end > range_.base.value + range_.size) return false;
  return std::ranges::none_of(functions_, [&](const Function* other) {
    const auto bar = other->bar_address();
    return other != &owner && bar && bar->value < end && begin < bar->value + other->bar_size();
  });
}

Function* PciHost::function_at(std::uint64_t ecam_offset) const {
  // Bus, device, function, register: 8, 5, 3 and 12 bits. Bus 0, function 0 only.
  if (((ecam_offset >> 12) & 7) != 0 || (ecam_offset >> 20) != 0) return nullptr;
  const std::uint64_t slot = (ecam_offset >> 15) & 31;
  return slot < functions_.size() ? functions_[slot] : nullptr;
}

std::uint64_t PciHost::Ecam::read(std::uint64_t offset, unsigned size) {
  Function* function = host.function_at(offset);
  if (function == nullptr) return ~std::uint64_t{0};
  const auto reg = static_cast<unsigned>(offset & 0xfff);
  if (reg >= kConfigSize) return 0;
  if (size > 4 || reg % size != 0) return ~std::uint64_t{0};
  return function->read_config(reg, size);
}

void PciHost::Ecam::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  Function* function = host.function_at(offset);
  const auto reg = static_cast<unsigned>(offset & 0xfff);
  if (function == nullptr || reg >= kConfigSize || size > 4 || reg % size != 0) return;
  function->write_config(reg, size, static_cast<std::uint32_t>(value));
}

std::optional<PciHost::Hit> PciHost::hit(std::uint64_t window_offset, unsigned size) const {
  const std::uint64_t address = range_.base.value + window_offset;
  for (Function* function : functions_) {
    const auto bar = function->bar_address();
    if (!bar) continue;
    const std::uint64_t offset = address - bar->value;
    if (offset < function->bar_size() && size <= function->bar_size() - offset) {
      return Hit{function, offset};
    }
  }
  return std::nullopt;
}

std::uint64_t PciHost::Window::read(std::uint64_t offset, unsigned size) {
  const auto found = host.hit(offset, size);
  return found ? found->function->read_bar(found->offset, size) : ~std::uint64_t{0};
}

void PciHost::Window::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (const auto found = host.hit(offset, size)) {
    found->function->write_bar(found->offset, size, value);
  }
}

}  // namespace vmm::pci
