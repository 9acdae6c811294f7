#include "src/hypervisor/machine/device_kinds.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/net/net_device.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/vsock_device.h"
#include "src/spec/items.h"

namespace vmm {
namespace {

using Made = Result<std::unique_ptr<virtio::Device>>;

using SlotState = DeviceKind::Slots::State;

// What a slot has would be told to be another process's. Its own name is refused before a file is
// looked at.
bool is_same_file(const std::string& path, const std::string& other) {
  std::error_code error;
  return std::filesystem::equivalent(path, other, error);
}

std::unexpected<Error> in_the_slot(const std::string& disk) {
  return fail("disk '{}' is in the slot already: detach it first", disk);
}

constexpr DeviceKind::Slots kDiskSlots = {
    .how_to_be_one = "--disk PATH,size=SIZE makes a slot, --disk size=SIZE an empty one",
    .state =
        [](const MachineConfig& config, std::size_t index) {
          const auto& disk = config.disks[index];
          if (!disk.is_slot()) return SlotState::fixed;
          return disk.is_empty() ? SlotState::empty : SlotState::filled;
        },
    .fill = [](MachineConfig& config, std::size_t index,
               const spec::Value& attachment) -> Result<void> {
      const auto given =
          TRY(spec::component_of<disk::DiskConfig>(attachment, disk::parse_disk_config));
      if (given.scratch) {
        return fail(
            "disk '{}': scratch is for the start of a machine: what is written would be gone when "
            "its guest resets",
            given.path);
      }
      auto& disk = config.disks[index];
      if (!disk.read_only && !disk.is_empty() && given.path == disk.path) {
        return in_the_slot(given.path);
      }
      disk = TRY(disk::fill_slot(disk, given));
      return {};
    },
    .clear = [](MachineConfig& config,
                std::size_t index) { config.disks[index] = disk::empty_slot(config.disks[index]); },
    .prepare = [](const MachineConfig& before, const MachineConfig& config, std::size_t index,
                  virtio::Device& device) -> Result<std::unique_ptr<virtio::SlotChange>> {
      const auto &old = before.disks[index], &disk = config.disks[index];
      if (!old.read_only && is_same_file(disk.path, old.path)) return in_the_slot(disk.path);
      return static_cast<virtio::BlockDevice&>(device).prepare(disk);
    },
    .prepare_resize = [](const MachineConfig& config, std::size_t index, virtio::Device& device,
                         std::uint64_t size) -> Result<std::unique_ptr<virtio::SlotChange>> {
      return static_cast<virtio::BlockDevice&>(device).prepare_resize(config.disks[index], size);
    },
};

using Change = Result<std::unique_ptr<virtio::SlotChange>>;

Result<void> check_publishes(const virtio::NetConfig& net, std::size_t index) {
  if (net.kind == virtio::NetKind::user) return {};
  return fail("net{} is not a network of kind user: only these publish ports", index);
}

// The network with that port as well.
Result<void> publish(virtio::NetConfig& net, const std::string& words) {
  const auto port = TRY(user_net::HostForward::parse(words));
  for (const auto& other : net.user.forwards) {
    if (port.overlaps(other)) {
      return fail("{} is published already, as {}", port.host_end_text(), other.text());
    }
  }
  net.user.forwards.push_back(port);
  return net.user.check();
}

constexpr DeviceKind::Slots::Ports kNetPorts = {
    .publish = [](MachineConfig& config, std::size_t index,
                  const std::vector<std::string>& ports) -> Result<void> {
      TRY(check_publishes(config.nets[index], index));
      auto net = config.nets[index];
      for (const auto& words : ports) TRY(publish(net, words));
      config.nets[index] = std::move(net);
      return {};
    },
    .unpublish = [](MachineConfig& config, std::size_t index,
                    const std::vector<std::string>& ports) -> Result<void> {
      TRY(check_publishes(config.nets[index], index));
      auto left = config.nets[index].user.forwards;
      for (const auto& words : ports) {
        const auto host_end = TRY(user_net::HostForward::parse_host_end(words));
        left = TRY(user_net::without(std::move(left), host_end));
      }
      config.nets[index].user.forwards = std::move(left);
      return {};
    },
    .prepare = [](const MachineConfig& config, std::size_t index,
                  virtio::Device& device) -> Change {
      return static_cast<virtio::NetDevice&>(device).prepare_ports(config.nets[index]);
    },
};

constexpr DeviceKind::Slots kNetSlots = {
    .how_to_be_one = "",
    .state =
        [](const MachineConfig& config, std::size_t index) {
          const bool is_empty = config.nets[index].kind == virtio::NetKind::unplugged;
          return is_empty ? SlotState::empty : SlotState::filled;
        },
    .fill = [](MachineConfig& config, std::size_t index,
               const spec::Value& attachment) -> Result<void> {
      const auto given =
          TRY(spec::component_of<virtio::NetConfig>(attachment, virtio::parse_net_config));
      auto& net = config.nets[index];
      for (const auto& forward : given.user.forwards) {
        const auto has_it = [&](const user_net::HostForward& other) {
          return other.overlaps(forward);
        };
        if (std::ranges::none_of(net.user.forwards, has_it)) continue;
        return fail("the card's network has the port of {} already: detach it first",
                    forward.text());
      }
      if (!given.tap.empty() && given.tap == net.tap) {
        return fail("the card has the tap '{}' already: detach it first", given.tap);
      }
      net = TRY(virtio::plug_in(net, given));
      return {};
    },
    .clear = [](MachineConfig& config,
                std::size_t index) { config.nets[index] = virtio::unplug(config.nets[index]); },
    .prepare = [](const MachineConfig&, const MachineConfig& config, std::size_t index,
                  virtio::Device& device) -> Change {
      return static_cast<virtio::NetDevice&>(device).prepare(config.nets[index]);
    },
    .ports = &kNetPorts,
};

constexpr DeviceKind::Slots kVsockSlots = {
    .how_to_be_one = "",
    .state =
        [](const MachineConfig& config, std::size_t) {
          return config.vsock->path.empty() ? SlotState::empty : SlotState::filled;
        },
    .fill = [](MachineConfig& config, std::size_t, const spec::Value& attachment) -> Result<void> {
      const auto given =
          TRY(spec::component_of<virtio::VsockConfig>(attachment, virtio::parse_vsock_config));
      if (given.path.empty()) return fail("a path is missing: it says where the host connects");
      if (given.cid != virtio::VsockConfig().cid && given.cid != config.vsock->cid) {
        return fail("the guest's address is {}, and stays", config.vsock->cid);
      }
      if (given.path == config.vsock->path) {
        return fail("vsock has the socket '{}' already: detach it first", given.path);
      }
      config.vsock->path = given.path;
      return {};
    },
    .clear = [](MachineConfig& config, std::size_t) { config.vsock->path.clear(); },
    .prepare = [](const MachineConfig&, const MachineConfig& config, std::size_t,
                  virtio::Device& device) -> Change {
      return static_cast<virtio::VsockDevice&>(device).prepare(*config.vsock);
    },
};

// Guests find the first disk first.
constexpr std::array<DeviceKind, 5> kKinds = {{
    {.name = "blk",
     .number = DeviceKind::Number::many,
     .status_key = "disks",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add(spec::both({"disk", "PATH[,KEY...]",
                                  "a disk; the first one is the root by default; keys below"}),
                      spec::components(config.disks, disk::parse_disk_config));
         },
     .count = [](const MachineConfig& config) { return config.disks.size(); },
     .make = [](const MachineConfig& config, std::size_t index, const std::string& name,
                const DeviceResources&) -> Made {
       return TRY(virtio::BlockDevice::create(config.disks[index], name));
     },
     .slots = &kDiskSlots},
    {.name = "net",
     .number = DeviceKind::Number::many,
     .status_key = "nets",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add(
               spec::both(
                   {"net", "user|tap=NAME|fd=N|socket=PATH|unplugged|none[,KEY...]",
                    "a network card; `unplugged` has no link, `none` is no card; keys below"}),
               spec::components(config.nets, virtio::parse_net_config));
         },
     .count = [](const MachineConfig& config) { return config.nets.size(); },
     .make = [](const MachineConfig& config, std::size_t index, const std::string& name,
                const DeviceResources& resources) -> Made {
       return TRY(virtio::NetDevice::create(config.nets[index], name, resources.memory));
     },
     .slots = &kNetSlots},
    {.name = "vsock",
     .status_key = "vsock",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add(
               spec::both({"vsock", "PATH[,cid=N]",
                           "a vsock device: the host connects to the socket PATH, the guest to "
                           "PATH_PORT; with cid=N alone nobody answers the guest"}),
               spec::component(config.vsock, virtio::parse_vsock_config));
         },
     .count = [](const MachineConfig& config) { return std::size_t{config.vsock.has_value()}; },
     .make = [](const MachineConfig& config, std::size_t, const std::string&,
                const DeviceResources& resources) -> Made {
       return TRY(virtio::VsockDevice::create(*config.vsock, resources.loop));
     },
     .slots = &kVsockSlots,
     .socket =
         [](const MachineConfig& config) {
           return config.vsock ? config.vsock->path : std::string();
         }},
    {.name = "balloon",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add({"balloon", "", "memory that the guest frees goes back to the host"},
                      spec::toggle(config.balloon));
         },
     .count = [](const MachineConfig& config) { return std::size_t{config.balloon}; },
     .make = [](const MachineConfig&, std::size_t, const std::string&,
                const DeviceResources& resources) -> Made {
       return std::make_unique<virtio::BalloonDevice>(resources.memory, resources.loop);
     }},
    {.name = "rng",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add(
               {"rng", "", "random numbers of the host, for a guest whose processor has none"},
               spec::toggle(config.rng));
         },
     .count = [](const MachineConfig& config) { return std::size_t{config.rng}; },
     .make = [](const MachineConfig&, std::size_t, const std::string&,
                const DeviceResources& resources) -> Made {
       return std::make_unique<virtio::RngDevice>(resources.loop);
     }},
}};

}  // namespace

std::span<const DeviceKind> device_kinds() { return kKinds; }

std::string name_of(const DeviceKind& kind, std::size_t index) {
  const bool numbered = kind.number == DeviceKind::Number::many;
  return numbered ? fmt::format("{}{}", kind.name, index) : std::string(kind.name);
}

}  // namespace vmm
