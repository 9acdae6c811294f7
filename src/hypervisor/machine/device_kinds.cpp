#include "src/hypervisor/machine/device_kinds.h"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/net/net_device.h"
#include "devices/virtio/pmem/pmem_device.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/vsock_device.h"
#include "src/base/text.h"
#include "src/disk/disk.h"
#include "src/spec/items.h"

namespace vmm {
namespace {

using Made = Result<std::unique_ptr<virtio::Device>>;

using SlotState = DeviceKind::Slots::State;

// What a slot has would be told to be another process's. Its own name is refused before a file is
// looked at.
bool is_same_file(const std::string& path, const std::string& other) {
  struct stat one{}, two{};
  return path == other || (::stat(path.c_str(), &one) == 0 && ::stat(other.c_str(), &two) == 0 &&
                           one.st_dev == two.st_dev && one.st_ino == two.st_ino);
}

// Two that are read, or have layers of their own, do not disturb each other.
Result<void> check_disks(const MachineConfig& config) {
  const auto& disks = config.disks;
  const auto is_written = [](const disk::DiskConfig& disk) {
    return !disk.read_only && !disk.scratch;
  };
  for (std::size_t i = 0; i < disks.size(); ++i) {
    if (!disks[i].id.empty()) {
      return fail(
          "disk '{}': an id says which disk of a restored machine it is: '{}' needs "
          "--restore",
          disks[i].path, disks[i].id);
    }
    if (disks[i].is_empty()) continue;
    if (disks[i].path.empty()) return fail("disk {}: a path is missing: --disk PATH[,ro]", i);
    for (std::size_t k = 0; k < i; ++k) {
      if (disks[k].is_empty() || (!is_written(disks[i]) && !is_written(disks[k]))) continue;
      if (!is_same_file(disks[k].path, disks[i].path)) continue;
      return fail("disk '{}' is given twice, and the guest would write to it by one of both names",
                  disks[i].path);
    }
  }
  return {};
}

// What a guest wrote is there when it resets.
Result<void> open_scratch_disks(MachineConfig& config, std::vector<KeptFile>& files) {
  for (auto& disk : config.disks) {
    if (disk.scratch) files.push_back({TRY(disk::open_scratch(disk)), disk.layer});
  }
  return {};
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

// For messages: "tap=t0".
std::string connection_of(const virtio::NetConfig& net) {
  if (net.kind == virtio::NetKind::socket) return "socket=" + printable_line(net.socket);
  return net.fds.empty() ? "tap=" + printable_line(net.tap)
                         : fmt::format("fd={}", fmt::join(net.fds, ":"));
}

Result<void> reconnect_nets(const Reconnection& to, MachineConfig& config) {
  auto& nets = config.nets;
  if (const auto& given = to.given.nets; !given.empty()) {
    if (given.size() != nets.size()) {
      return fail("{} times --net, but the machine in snapshot '{}' has {} network cards",
                  given.size(), to.snapshot, nets.size());
    }
    nets = given;
    return {};
  }
  for (std::size_t i = 0; i < nets.size(); ++i) {
    const auto& was = to.attached.nets[i];
    if (to.same) {
      // Those of the process that started the machine are gone.
      if (was.fds.empty()) continue;
      return fail("net{} was connected to open descriptors: --net says to what, for each card", i);
    }
    if (was.kind == virtio::NetKind::user) {
      if (was.user.forwards.empty() && !was.user.host_loopback) continue;
      to.unconnected.push_back(
          fmt::format("published ports and host loopback of net{} (--net)", i));
    } else if (was.kind != virtio::NetKind::unplugged) {
      to.unconnected.push_back(fmt::format("net{} to {} (--net)", i, connection_of(was)));
    }
  }
  return {};
}

Result<void> reconnect_vsock(const Reconnection& to, MachineConfig& config) {
  if (to.given.vsock) {
    config.vsock = to.given.vsock;
  } else if (config.vsock && !to.same && !to.attached.vsock->path.empty()) {
    to.unconnected.push_back(
        fmt::format("vsock to '{}' (--vsock)", printable_line(to.attached.vsock->path)));
  }
  return {};
}

// A snapshot has no copy of the files. Whether one is what the guest has read, the device says when
// its state is restored.
Result<void> reconnect_pmems(const Reconnection& to, MachineConfig& config) {
  auto& pmems = config.pmems;
  const auto& given = to.given.pmems;
  if (given.empty()) {
    for (std::size_t i = 0; i < pmems.size(); ++i) {
      const auto& path = to.attached.pmems[i].path;
      if (path.empty()) TRY(virtio::check(pmems[i]));  // a slot
      if (path.empty() || to.same) continue;
      return fail("snapshot '{}' has no copy of pmem{} '{}': say which file it is with --pmem PATH",
                  to.snapshot, i, printable_line(path));
    }
    return {};
  }
  if (given.size() != pmems.size()) {
    return fail("{} times --pmem, but the machine in snapshot '{}' has {} of them", given.size(),
                to.snapshot, pmems.size());
  }
  for (std::size_t i = 0; i < pmems.size(); ++i) pmems[i] = TRY(virtio::fill(pmems[i], given[i]));
  return {};
}

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
constexpr std::array<DeviceKind, 6> kKinds = {{
    {.name = "blk",
     .number = DeviceKind::Number::many,
     .status_key = "disks",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add(spec::both({"disk", "PATH[,KEY...]",
                                  "a disk; the first one is the root by default; keys below"}),
                      spec::components(config.disks, disk::parse_disk_config));
         },
     .keys = [](MachineConfig& config) { return fields_of(config.disks.emplace_back()); },
     .count = [](const MachineConfig& config) { return config.disks.size(); },
     .make = [](const MachineConfig& config, std::size_t index, const std::string& name,
                const DeviceResources&) -> Made {
       return TRY(virtio::BlockDevice::create(config.disks[index], name));
     },
     .slots = &kDiskSlots,
     .paths =
         [](MachineConfig& config) {
           std::vector<std::string*> paths;
           for (auto& disk : config.disks) paths.push_back(&disk.path);
           return paths;
         },
     .check = check_disks,
     .open_kept = open_scratch_disks,
     .kernel_words = [](const MachineConfig& config) -> std::string {
       if (config.disks.empty() || config.disks[0].is_empty()) return {};
       return fmt::format("root=/dev/vda {}", config.disks[0].read_only ? "ro" : "rw");
     }},
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
     .keys = [](MachineConfig& config) { return fields_of(config.nets.emplace_back()); },
     .count = [](const MachineConfig& config) { return config.nets.size(); },
     .make = [](const MachineConfig& config, std::size_t index, const std::string& name,
                const DeviceResources& resources) -> Made {
       return TRY(virtio::NetDevice::create(config.nets[index], name, resources.memory));
     },
     .slots = &kNetSlots,
     .paths =
         [](MachineConfig& config) {
           std::vector<std::string*> paths;
           for (auto& net : config.nets) paths.push_back(&net.socket);
           return paths;
         },
     .tidy =
         [](MachineConfig& config) {
           std::erase_if(config.nets,
                         [](const auto& net) { return net.kind == virtio::NetKind::none; });
         },
     .make_up =
         [](MachineConfig& config) {
           for (auto& net : config.nets) {
             if (!net.mac) net.mac = net::MacAddress::random();
           }
         },
     .reconnect = reconnect_nets,
     .give_own =
         [](const MachineConfig& guest, const MachineConfig& attached, MachineConfig& given) {
           given.nets = guest.nets;
           for (std::size_t i = 0; i < given.nets.size(); ++i) {
             given.nets[i].user.host_loopback = attached.nets[i].user.host_loopback;
           }
         }},
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
         },
     .paths =
         [](MachineConfig& config) {
           std::vector<std::string*> paths;
           if (config.vsock) paths.push_back(&config.vsock->path);
           return paths;
         },
     .reconnect = reconnect_vsock},
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
     },
     // Before it had an option, every machine had one.
     .add_unsaid = [](MachineConfig& config) { config.rng = true; }},
    {.name = "pmem",
     .number = DeviceKind::Number::many,
     .status_key = "pmems",
     .declare =
         [](MachineConfig& config, spec::Fields& fields) {
           fields.add(spec::both({"pmem", "PATH[,KEY...]",
                                  "a file as read-only persistent memory: guests share its pages "
                                  "with the host and one another; keys below"}),
                      spec::components(config.pmems, virtio::parse_pmem_config));
         },
     .keys = [](MachineConfig& config) { return fields_of(config.pmems.emplace_back()); },
     .count = [](const MachineConfig& config) { return config.pmems.size(); },
     .make = [](const MachineConfig& config, std::size_t index, const std::string& name,
                const DeviceResources& resources) -> Made {
       return TRY(
           virtio::PmemDevice::create(config.pmems[index], name, resources.memory, resources.loop));
     },
     .paths =
         [](MachineConfig& config) {
           std::vector<std::string*> paths;
           for (auto& pmem : config.pmems) paths.push_back(&pmem.path);
           return paths;
         },
     .check = [](const MachineConfig& config) -> Result<void> {
       for (const auto& pmem : config.pmems) TRY(virtio::check(pmem));
       return {};
     },
     .reconnect = reconnect_pmems,
     .give_own = [](const MachineConfig&, const MachineConfig& attached,
                    MachineConfig& given) { given.pmems = attached.pmems; }},
}};

}  // namespace

std::span<const DeviceKind> device_kinds() { return kKinds; }

std::string name_of(const DeviceKind& kind, std::size_t index) {
  const bool numbered = kind.number == DeviceKind::Number::many;
  return numbered ? fmt::format("{}{}", kind.name, index) : std::string(kind.name);
}

}  // namespace vmm
