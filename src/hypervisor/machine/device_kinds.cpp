#include "src/hypervisor/machine/device_kinds.h"

#include <array>

#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/net/net_device.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/vsock_device.h"
#include "src/spec/items.h"

namespace vmm {
namespace {

using Made = Result<std::unique_ptr<virtio::Device>>;

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
     .count = [](const MachineConfig& config) { return config.nets.size(); },
     .make = [](const MachineConfig& config, std::size_t index, const std::string& name,
                const DeviceResources& resources) -> Made {
       return TRY(virtio::NetDevice::create(config.nets[index], name, resources.memory));
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

}  // namespace vmm
