#include "devices/pci/msix.h"

#include <cstring>

#include "devices/pci/registers.h"

namespace vmm::pci {

MsixTable::MsixTable(MsiSink& sink, std::uint16_t vectors) : sink_(sink), entries_(vectors) {}

void MsixTable::signal(std::uint16_t vector) {
  std::lock_guard lock(mutex_);
  if (vector >= entries_.size()) return;
  entries_[vector].pending = true;
  deliver(entries_[vector]);
}

void MsixTable::deliver(Entry& entry) {
  if (!entry.pending || !can_send(entry)) return;
  entry.pending = false;
  sink_.send(message(entry));
}

Result<int> MsixTable::route(std::uint16_t vector) {
  std::lock_guard lock(mutex_);
  if (vector >= entries_.size()) return fail("MSI-X vector {} does not exist", vector);
  auto& entry = entries_[vector];
  if (!entry.route) entry.route = TRY(sink_.create_route());
  update_route(entry);
  return entry.route->event_fd();
}

void MsixTable::release_routes() {
  std::lock_guard lock(mutex_);
  for (auto& entry : entries_) entry.route.reset();
}

void MsixTable::update_route(Entry& entry) {
  if (!entry.route) return;
  const auto report = [this](const Result<void>& result) {
    if (!result) log::error_limited(limit_, "interrupt route: {}", result.error().message());
  };
  if (can_send(entry)) report(entry.route->set_message(message(entry)));
  report(entry.route->set_enabled(can_send(entry)));
}

std::uint64_t MsixTable::read_table(std::uint64_t offset, unsigned size) {
  std::lock_guard lock(mutex_);
  // None reaches into the next entry, which is behind words[] too.
  if (offset / kEntrySize >= entries_.size() || size > 8 ||
      offset % kEntrySize + size > kEntrySize) {
    return ~std::uint64_t{0};
  }
  const auto& entry = entries_[offset / kEntrySize];
  const std::uint32_t words[4] = {entry.address_low, entry.address_high, entry.data, entry.control};
  std::uint64_t value = 0;
  std::memcpy(&value, reinterpret_cast<const char*>(words) + offset % kEntrySize, size);
  return value;
}

void MsixTable::write_table(std::uint64_t offset, unsigned size, std::uint64_t value) {
  // Only whole words: 6.8.2, "software must use aligned DWORD or QWORD accesses".
  if (offset / kEntrySize >= entries_.size() || (size != 4 && size != 8) || offset % size != 0) {
    return;
  }
  std::lock_guard lock(mutex_);
  auto& entry = entries_[offset / kEntrySize];
  for (unsigned done = 0; done < size; done += 4) {
    const auto word = static_cast<std::uint32_t>(value >> (8 * done));
    switch ((offset + done) % kEntrySize) {
      case 0:
        entry.address_low = word & ~3u;
        break;
      case 4:
        entry.address_high = word;
        break;
      case 8:
        entry.data = word;
        break;
      default:
        entry.control = word & 1;
    }
  }
  update_route(entry);
  deliver(entry);
}

std::uint64_t MsixTable::read_pending(std::uint64_t offset, unsigned size) {
  if (size > 8) return ~std::uint64_t{0};
  std::lock_guard lock(mutex_);
  std::uint64_t bits = 0;
  for (std::uint64_t i = 0; i < std::uint64_t{size} * 8; ++i) {
    const std::uint64_t vector = offset * 8 + i;
    if (vector < entries_.size() && entries_[vector].pending) bits |= std::uint64_t{1} << i;
  }
  return bits;
}

void MsixTable::set_control(std::uint16_t control) {
  std::lock_guard lock(mutex_);
  enabled_ = (control & kMsixEnable) != 0;
  function_masked_ = (control & kMsixFunctionMask) != 0;
  for (auto& entry : entries_) {
    update_route(entry);
    deliver(entry);
  }
}

MsixState MsixTable::save() {
  std::lock_guard lock(mutex_);
  MsixState state{.enabled = enabled_, .function_masked = function_masked_};
  for (const auto& entry : entries_) {
    state.entries.push_back(
        {entry.address_low, entry.address_high, entry.data, entry.control, entry.pending});
  }
  return state;
}

Result<void> MsixTable::restore(const MsixState& state) {
  std::lock_guard lock(mutex_);
  if (state.entries.size() != entries_.size()) {
    return fail("{} MSI-X vectors, here there are {}", state.entries.size(), entries_.size());
  }
  enabled_ = state.enabled;
  function_masked_ = state.function_masked;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const auto& from = state.entries[i];
    auto& entry = entries_[i];
    entry.address_low = from.address_low & ~3u;
    entry.address_high = from.address_high;
    entry.data = from.data;
    entry.control = from.control & 1;
    entry.pending = from.pending;
  }
  return {};
}

void MsixTable::reset() {
  std::lock_guard lock(mutex_);
  enabled_ = function_masked_ = false;
  for (auto& entry : entries_) entry = Entry{};
}

}  // namespace vmm::pci
