#include "devices/backend/net/vhost_net.h"

#include <fcntl.h>
// Ring helpers that are no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstddef>

namespace vmm::net {
namespace {

constexpr const char* kVhostDevice = "/dev/vhost-net";

Result<UniqueFd> open_device() {
  auto fd = open_file(kVhostDevice, O_RDWR);
  if (fd) return fd;
  if (fd.error().code() == EACCES || fd.error().code() == EPERM) {
    return fail("no permission to open {}", kVhostDevice);
  }
  if (fd.error().code() == ENOENT || fd.error().code() == ENODEV) {
    return fail("{} is missing: load the host's module by `modprobe vhost_net`", kVhostDevice);
  }
  return fd;
}

// struct vhost_memory ends in an array of its regions.
std::vector<std::byte> memory_table(const GuestMemory& memory) {
  std::vector<vhost_memory_region> entries;
  const auto add = [&entries](const MemoryRange& range, const std::byte* host) {
    entries.push_back({.guest_phys_addr = range.base.value,
                       .memory_size = range.size,
                       .userspace_addr = reinterpret_cast<std::uint64_t>(host),
                       .flags_padding = 0});
  };
  for (const auto& region : memory.regions()) add(region.range, region.host);
  // Frames may be sent out of them; one that is received for a buffer there is dropped.
  for (const auto& window : memory.windows()) add(window.range, window.host);
  const auto table = std::as_bytes(std::span(entries));
  std::vector<std::byte> bytes(sizeof(vhost_memory) + table.size());
  const auto count = static_cast<std::uint32_t>(entries.size());
  std::memcpy(bytes.data() + offsetof(vhost_memory, nregions), &count, sizeof count);
  std::ranges::copy(table, bytes.begin() + sizeof(vhost_memory));
  return bytes;
}

}  // namespace

VhostNet::VhostNet(std::vector<UniqueFd> devices, EventFd error, std::uint64_t features)
    : devices_(std::move(devices)),
      running_(devices_.size()),
      error_(std::move(error)),
      features_(features) {}

VhostNet::~VhostNet() = default;

Result<std::unique_ptr<VhostNet>> VhostNet::open(unsigned pairs) {
  std::vector<UniqueFd> devices;
  std::uint64_t features = ~std::uint64_t{0};
  for (unsigned i = 0; i < pairs; ++i) {
    auto fd = TRY(open_device());
    if (::ioctl(fd.get(), VHOST_SET_OWNER) < 0) return fail_errno("cannot own {}", kVhostDevice);
    std::uint64_t offered = 0;
    if (::ioctl(fd.get(), VHOST_GET_FEATURES, &offered) < 0) {
      return fail_errno("cannot read the features of {}", kVhostDevice);
    }
    features &= offered;
    devices.push_back(std::move(fd));
  }
  auto error = TRY(EventFd::create());
  return std::make_unique<VhostNet>(std::move(devices), std::move(error), features);
}

Result<void> VhostNet::start(const GuestMemory& memory, std::uint64_t features,
                             std::span<const std::optional<RingPair>> pairs,
                             const NetBackend& tap) {
  const auto bytes = memory_table(memory);
  const auto& table = *reinterpret_cast<const vhost_memory*>(bytes.data());
  for (unsigned pair = 0; pair < devices_.size() && pair < pairs.size(); ++pair) {
    if (pairs[pair]) TRY(start_pair(pair, table, memory, features, *pairs[pair]));
  }
  // Only now may the kernel look at the rings.
  for (unsigned pair = 0; pair < devices_.size() && pair < pairs.size(); ++pair) {
    if (!pairs[pair]) continue;
    running_[pair] = true;
    for (unsigned index = 0; index < 2; ++index) {
      const vhost_vring_file file{index, tap.fd(pair)};
      if (::ioctl(devices_[pair].get(), VHOST_NET_SET_BACKEND, &file) < 0) {
        return fail_errno("vhost-net does not take queue {} of the tap", pair);
      }
    }
  }
  return {};
}

Result<void> VhostNet::start_pair(unsigned pair, const vhost_memory& table,
                                  const GuestMemory& memory, std::uint64_t features,
                                  const RingPair& rings) {
  const int fd = devices_[pair].get();
  const std::uint64_t accepted = features & features_;
  if (::ioctl(fd, VHOST_SET_FEATURES, &accepted) < 0) {
    return fail_errno("vhost-net does not take features {:#x}", accepted);
  }
  if (::ioctl(fd, VHOST_SET_MEM_TABLE, &table) < 0) {
    return fail_errno("vhost-net does not take the guest's {} memory regions", table.nregions);
  }
  TRY(set_ring(pair, 0, memory, rings.receive));
  return set_ring(pair, 1, memory, rings.transmit);
}

Result<void> VhostNet::set_ring(unsigned pair, unsigned index, const GuestMemory& memory,
                                const Ring& ring) {
  const int fd = devices_[pair].get();
  const auto& config = ring.queue->config();
  const auto host = [&memory](GuestAddress address) {
    // Queue::create checked that the rings are inside of the memory.
    return reinterpret_cast<std::uint64_t>(memory.host_pointer(address, 1));
  };
  const vhost_vring_state size{index, config.size};
  const vhost_vring_state base{index, ring.queue->next_avail()};
  const vhost_vring_addr address{.index = index,
                                 .flags = 0,
                                 .desc_user_addr = host(config.descriptors),
                                 .used_user_addr = host(config.used),
                                 .avail_user_addr = host(config.avail),
                                 .log_guest_addr = 0};
  const vhost_vring_file kick{index, ring.kick};
  const vhost_vring_file call{index, ring.call};
  const vhost_vring_file error{index, error_.fd()};
  if (::ioctl(fd, VHOST_SET_VRING_NUM, &size) < 0 || ::ioctl(fd, VHOST_SET_VRING_BASE, &base) < 0 ||
      ::ioctl(fd, VHOST_SET_VRING_ADDR, &address) < 0 ||
      ::ioctl(fd, VHOST_SET_VRING_KICK, &kick) < 0 ||
      ::ioctl(fd, VHOST_SET_VRING_CALL, &call) < 0 ||
      ::ioctl(fd, VHOST_SET_VRING_ERR, &error) < 0) {
    return fail_errno("vhost-net does not take ring {} of pair {}", index, pair);
  }
  return {};
}

void VhostNet::stop(const GuestMemory& memory, std::span<virtio::Queue* const> queues) {
  for (unsigned pair = 0; pair < devices_.size(); ++pair) {
    if (!running_[pair]) continue;
    running_[pair] = false;
    for (unsigned index = 0; index < 2; ++index) {
      const vhost_vring_file nothing{index, VHOST_FILE_UNBIND};
      // Does not fail for a device that this process owns.
      (void)::ioctl(devices_[pair].get(), VHOST_NET_SET_BACKEND, &nothing);
    }
    for (unsigned index = 0; index < 2; ++index) {
      const std::size_t at = std::size_t{2} * pair + index;
      if (at >= queues.size() || queues[at] == nullptr) continue;
      vhost_vring_state base{index, queues[at]->next_avail()};
      (void)::ioctl(devices_[pair].get(), VHOST_GET_VRING_BASE, &base);  // as above
      // Everything that the kernel took it has used as well, by now. The used index is the guest's
      // to overwrite, though that harms nobody but itself.
      const auto used = memory.read<std::uint16_t>(queues[at]->config().used + 2);
      queues[at]->set_position(static_cast<std::uint16_t>(base.num),
                               used ? *used : static_cast<std::uint16_t>(base.num));
    }
  }
}

}  // namespace vmm::net
