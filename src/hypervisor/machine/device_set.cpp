#include "src/hypervisor/machine/device_set.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "src/base/errors.h"
#include "src/hypervisor/machine/device_kinds.h"

namespace vmm {
namespace {

constexpr std::string_view kPciHostSection = "pci";
std::string transport_section(const std::string& device) { return device + ".pci"; }

// Before any is opened.
Result<void> check_number(const MachineConfig& config) {
  std::size_t number = 0;
  std::vector<std::string> texts;
  for (const auto& kind : device_kinds()) {
    const auto count = kind.count(config);
    number += count;
    if (count > 0) texts.push_back(fmt::format("{} {}", count, kind.name));
  }
  if (number <= pci::kMostFunctions) return {};
  return fail("{} devices ({}): expected at most {}", number, fmt::join(texts, ", "),
              pci::kMostFunctions);
}

}  // namespace

Result<std::unique_ptr<DeviceSet>> DeviceSet::create(const MachineConfig& config,
                                                     const DeviceContext& context,
                                                     const MemoryRange& pci_window) {
  TRY(check_number(config));
  std::unique_ptr<DeviceSet> set(new DeviceSet(context, pci_window));
  const DeviceResources resources{context.memory, context.loop};
  Errors errors;  // of all of them: who frees what one is in need of frees the rest as well
  for (const auto& kind : device_kinds()) {
    for (std::size_t i = 0; i < kind.count(config); ++i) {
      const auto name = name_of(kind, i);
      auto device = kind.make(config, i, name, resources);
      if (errors.add(device)) TRY(set->add(kind, name, std::move(*device)));
    }
  }
  if (errors.empty()) return set;
  // With what only a network's process can tell, such as a port that is taken.
  (void)errors.add(set->wait_ready());
  return std::unexpected(errors.result().error());
}

DeviceSet::~DeviceSet() { stop(); }

Result<void> DeviceSet::wait_ready() {
  Errors errors;
  for (const auto& entry : entries_) {
    const auto ready = entry.device->wait_ready();
    if (!ready) errors.add(Error(fmt::format("{}: {}", entry.name, ready.error().message())));
  }
  return errors.result();
}

void DeviceSet::stop() {
  for (auto& entry : entries_) {
    const Waits::Scope waiting(*waits_, fmt::format("device {}", entry.name));
    entry.transport->stop();
  }
}

void DeviceSet::suspend() {
  for (auto& entry : entries_) {
    const Waits::Scope waiting(*waits_, fmt::format("device {}", entry.name));
    entry.transport->suspend();
  }
}

void DeviceSet::resume() {
  // One that cannot go on needs a reset: it has said so, to its driver and in the log.
  for (auto& entry : entries_) (void)entry.transport->resume();
}

virtio::Device* DeviceSet::find(std::string_view name) const {
  const auto found = std::ranges::find(entries_, name, &Entry::name);
  return found == entries_.end() ? nullptr : found->device.get();
}

Result<void> DeviceSet::change(std::string_view name, virtio::SlotChange& change) {
  const auto found = std::ranges::find(entries_, name, &Entry::name);
  if (found == entries_.end()) return fail("no component '{}'", name);
  // Files may take their time, while nothing of the device hangs.
  std::optional<Waits::Scope> waiting(std::in_place, *waits_, fmt::format("device {}", name));
  return found->transport->change(change, [&] { waiting.reset(); });
}

void DeviceSet::save(state::Sections& sections) {
  sections.put(kPciHostSection, pci_.save());
  for (auto& entry : entries_) {
    sections.put(transport_section(entry.name), entry.transport->save());
    entry.device->save(sections, entry.name);
  }
}

Result<void> DeviceSet::restore(state::Sections& sections) {
  TRY(pci_.restore(TRY(sections.take<pci::HostState>(kPciHostSection))));
  for (auto& entry : entries_) {
    const auto restore = [&]() -> Result<void> {
      TRY(entry.device->restore(sections, entry.name));
      return entry.transport->restore(
          TRY(sections.take<virtio::TransportState>(transport_section(entry.name))));
    };
    if (const auto result = restore(); !result) {
      return fail("{}: {}", entry.name, result.error().message());
    }
  }
  return {};
}

NamedValues DeviceSet::metrics() {
  NamedValues metrics;
  for (const auto& entry : entries_) metrics.push_back({entry.name, entry.device->metrics()});
  return metrics;
}

NamedValues DeviceSet::status() const {
  NamedValues status;
  for (const auto& kind : device_kinds()) {
    if (kind.status_key.empty()) continue;
    NamedValuesList list;
    for (const auto& entry : entries_) {
      if (entry.kind == &kind) list.push_back(entry.device->status());
    }
    const std::string key(kind.status_key);
    if (kind.number == DeviceKind::Number::many) {
      status.push_back({key, std::move(list)});
    } else if (!list.empty()) {
      status.push_back({key, std::move(list.front())});
    }
  }
  return status;
}

virtio::MemoryTarget* DeviceSet::memory_target() const {
  for (const auto& entry : entries_) {
    if (auto* target = entry.device->memory_target(); target != nullptr) return target;
  }
  return nullptr;
}

Result<void> DeviceSet::add(const DeviceKind& kind, std::string name,
                            std::unique_ptr<virtio::Device> device) {
  auto transport = TRY(virtio::PciTransport::create(name, *device, context_.memory,
                                                    context_.messages, context_.doorbells));
  TRY(pci_.add(*transport));
  entries_.push_back({&kind, std::move(name), std::move(device), std::move(transport)});
  return {};
}

}  // namespace vmm
