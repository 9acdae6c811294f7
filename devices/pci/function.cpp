#include "devices/pci/function.h"

#include <algorithm>
#include <cstring>

#include "devices/pci/host.h"

namespace vmm::pci {

Function::Function(const Identity& identity, std::uint32_t bar_size) : bar_size_(bar_size) {
  set(kVendorId, 2, identity.vendor);
  set(kDeviceId, 2, identity.device);
  set(kRevision, 1, identity.revision);
  set(kClassCode, 1, identity.class_code & 0xff);
  set(kClassCode + 1, 2, identity.class_code >> 8);
  set(kSubsystemVendorId, 2, identity.subsystem_vendor);
  set(kSubsystemId, 2, identity.subsystem);
  const auto allow = [this](unsigned offset, std::uint32_t bits, unsigned size) {
    std::memcpy(&writable_[offset], &bits, size);
  };
  allow(kCommand, kCommandMemory | kCommandBusMaster | kCommandIntxDisable, 2);
  // The low bits of a BAR read as zero: that is how the guest learns its size.
  if (bar_size != 0) allow(kBar0, ~(bar_size - 1), 4);
  allow(kInterruptLine, 0xff, 1);
}

unsigned Function::add_capability(std::uint8_t id, std::span<const std::uint8_t> body,
                                  std::span<const std::uint8_t> writable) {
  const unsigned offset = next_capability_;
  set(offset, 1, id);
  std::copy(body.begin(), body.end(), bytes_.begin() + offset + 2);
  std::copy(writable.begin(), writable.end(), writable_.begin() + offset + 2);
  set(last_capability_ == 0 ? kCapabilityPointer : last_capability_ + 1, 1, offset);
  set(kStatus, 2, get(kStatus, 2) | kStatusCapabilities);
  last_capability_ = offset;
  next_capability_ = (offset + 2 + static_cast<unsigned>(body.size()) + 3) & ~3u;
  return offset;
}

std::uint32_t Function::read_config(unsigned offset, unsigned size) {
  if (offset >= kFirstCapability) {
    if (const auto value = capability_read(offset, size)) return *value;
  }
  std::lock_guard lock(mutex_);
  return get(offset, size);
}

void Function::write_config(unsigned offset, unsigned size, std::uint32_t value) {
  bool moved = false;
  {
    std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < size; ++i) {
      const std::uint8_t mask = writable_[offset + i];
      const auto byte = static_cast<std::uint8_t>(value >> (8 * i));
      bytes_[offset + i] = static_cast<std::uint8_t>((bytes_[offset + i] & ~mask) | (byte & mask));
    }
    const std::uint64_t before = bar_address_;
    update_bar();
    moved = bar_address_ != before;
  }
  if (moved) bar_moved();
  if (offset >= kFirstCapability) capability_written(offset, size, value);
}

void Function::update_bar() {
  const bool decoding = (get(kCommand, 2) & kCommandMemory) != 0;
  bar_address_ = decoding ? get(kBar0, 4) & ~0xfu : 0;
}

std::optional<GuestAddress> Function::bar_address() const {
  const std::uint64_t address = bar_address_.load(std::memory_order_acquire);
  if (address == 0) return std::nullopt;
  return GuestAddress{address};
}

std::optional<GuestAddress> Function::own_bar_address() const {
  const auto address = bar_address();
  if (!address || (host_ != nullptr && !host_->is_free(*address, *this))) return std::nullopt;
  return address;
}

void Function::assign_bar(GuestAddress address) {
  std::lock_guard lock(mutex_);
  set(kBar0, 4, static_cast<std::uint32_t>(address.value));
  update_bar();
}

FunctionState Function::save_config() {
  std::lock_guard lock(mutex_);
  return {{bytes_.begin(), bytes_.end()}};
}

Result<void> Function::restore_config(const FunctionState& state) {
  if (state.config.size() != bytes_.size()) {
    return fail("a configuration space of {} bytes", state.config.size());
  }
  std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    const auto fixed = static_cast<std::uint8_t>(~writable_[i]);
    if ((state.config[i] & fixed) != (bytes_[i] & fixed)) {
      return fail("it was another PCI function: register {:#x} was {:#04x}, here it is {:#04x}", i,
                  state.config[i], bytes_[i]);
    }
  }
  std::ranges::copy(state.config, bytes_.begin());
  update_bar();
  return {};
}

void Function::capability_written(unsigned, unsigned, std::uint32_t) {}
void Function::bar_moved() {}
std::optional<std::uint32_t> Function::capability_read(unsigned, unsigned) { return std::nullopt; }

void Function::set(unsigned offset, unsigned size, std::uint32_t value) {
  std::memcpy(&bytes_[offset], &value, size);
}

std::uint32_t Function::get(unsigned offset, unsigned size) const {
  std::uint32_t value = 0;
  std::memcpy(&value, &bytes_[offset], size);
  return value;
}

}  // namespace vmm::pci
