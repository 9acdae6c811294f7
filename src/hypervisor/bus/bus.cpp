#include "src/hypervisor/bus/bus.h"

#include <bit>

namespace vmm {
namespace {

// The emulator of the host's KVM makes others, too: a far pointer has 6 bytes and may lie anywhere.
// No register has that size, and no handler has to think of it.
bool is_register_access(std::uint64_t address, unsigned size) {
  return size <= 8 && std::has_single_bit(size) && address % size == 0;
}

}  // namespace

Result<void> Bus::add(std::uint64_t base, std::uint64_t size, IoHandler& handler,
                      std::string name) {
  for (const auto& [_, other] : entries_) {
    if (base < other.base + other.size && other.base < base + size) {
      return fail("'{}' at {:#x}+{:#x} overlaps '{}'", name, base, size, other.name);
    }
  }
  entries_.emplace(base, Entry{base, size, &handler, std::move(name)});
  return {};
}

const Bus::Entry* Bus::find(std::uint64_t address, unsigned size) const {
  if (!is_register_access(address, size)) return nullptr;
  auto it = entries_.upper_bound(address);
  if (it == entries_.begin()) return nullptr;
  const Entry& entry = std::prev(it)->second;
  const std::uint64_t offset = address - entry.base;
  return offset < entry.size && size <= entry.size - offset ? &entry : nullptr;
}

std::uint64_t Bus::read(std::uint64_t address, unsigned size) const {
  const Entry* entry = find(address, size);
  return entry != nullptr ? entry->handler->read(address - entry->base, size) : ~std::uint64_t{0};
}

void Bus::write(std::uint64_t address, unsigned size, std::uint64_t value) const {
  if (const Entry* entry = find(address, size)) {
    entry->handler->write(address - entry->base, size, value);
  }
}

}  // namespace vmm
