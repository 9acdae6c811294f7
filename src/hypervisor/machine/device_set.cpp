#include "src/hypervisor/machine/device_set.h"

#include <array>

#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/net/net_device.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/vsock_device.h"

namespace vmm {
namespace {

using AddDevices = Result<void> (*)(const MachineConfig&, const DeviceContext&, DeviceSet&);

Result<void> add_disks(const MachineConfig& config, const DeviceContext&, DeviceSet& set) {
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    const std::string name = fmt::format("blk{}", i);
    TRY(set.add(name, TRY(virtio::BlockDevice::create(config.disks[i], name))));
  }
  return {};
}

Result<void> add_nets(const MachineConfig& config, const DeviceContext& context, DeviceSet& set) {
  for (std::size_t i = 0; i < config.nets.size(); ++i) {
    const std::string name = fmt::format("net{}", i);
    TRY(set.add(name, TRY(virtio::NetDevice::create(config.nets[i], name, context.memory))));
  }
  return {};
}

Result<void> add_vsock(const MachineConfig& config, const DeviceContext& context, DeviceSet& set) {
  if (!config.vsock) return {};
  return set.add("vsock", TRY(virtio::VsockDevice::create(*config.vsock, context.loop)));
}

Result<void> add_balloon(const MachineConfig& config, const DeviceContext& context,
                         DeviceSet& set) {
  if (!config.balloon) return {};
  return set.add("balloon", std::make_unique<virtio::BalloonDevice>(context.memory, context.loop));
}

Result<void> add_rng(const MachineConfig& config, const DeviceContext& context, DeviceSet& set) {
  if (!config.rng) return {};
  return set.add("rng", std::make_unique<virtio::RngDevice>(context.loop));
}

constexpr std::string_view kPciHostSection = "pci";
std::string transport_section(const std::string& device) { return device + ".pci"; }

// In the order of the PCI slots: the first disk is found first.
constexpr std::array<AddDevices, 5> kKinds = {&add_disks, &add_nets, &add_vsock, &add_balloon,
                                              &add_rng};

}  // namespace

Result<std::unique_ptr<DeviceSet>> DeviceSet::create(const MachineConfig& config,
                                                     const DeviceContext& context,
                                                     const MemoryRange& pci_window) {
  std::unique_ptr<DeviceSet> set(new DeviceSet(context, pci_window));
  for (const auto add : kKinds) TRY(add(config, context, *set));
  return set;
}

DeviceSet::~DeviceSet() { stop(); }

Result<void> DeviceSet::wait_ready() {
  for (const auto& entry : entries_) {
    auto* net = dynamic_cast<virtio::NetDevice*>(entry.device.get());
    if (net == nullptr) continue;
    if (const auto ready = net->wait_ready(); !ready) {
      return fail("{}: {}", entry.name, ready.error().message());
    }
  }
  return {};
}

void DeviceSet::stop() {
  for (auto& entry : entries_) entry.transport->stop();
}

void DeviceSet::suspend() {
  for (auto& entry : entries_) entry.transport->suspend();
}

void DeviceSet::resume() {
  for (auto& entry : entries_) entry.transport->resume();
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

Result<void> DeviceSet::add(std::string name, std::unique_ptr<virtio::Device> device) {
  auto transport = TRY(virtio::PciTransport::create(name, *device, context_.memory,
                                                    context_.messages, context_.doorbells));
  TRY(pci_.add(*transport));
  entries_.push_back({std::move(name), std::move(device), std::move(transport)});
  return {};
}

}  // namespace vmm
