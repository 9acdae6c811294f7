#include "devices/backend/net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>

#include "src/base/log.h"
#include "src/user_net/virtio_net.h"

namespace vmm::net {
namespace {

constexpr const char* kTunDevice = "/dev/net/tun";
constexpr short kFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

Result<UniqueFd> open_tun() {
  auto fd = open_file(kTunDevice, O_RDWR | O_NONBLOCK);
  if (fd) return fd;
  switch (fd.error().code()) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return fail("a tap needs {}, which is missing: load the host's tun module by `modprobe tun`",
                  kTunDevice);
    case EACCES:
    case EPERM:
      return fail("no permission to open {}: it should have mode 0666, as udev gives it",
                  kTunDevice);
    default:
      return fd;
  }
}

ifreq request_for(const std::string& name, short flags) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
  request.ifr_flags = flags;
  return request;
}

std::unexpected<Error> attach_error(const std::string& name, unsigned pairs, int code) {
  switch (code) {
    case EBUSY:
      return fail("tap '{}' is in use by another process", name);
    case EPERM:
    case EACCES:
      return fail(
          "no permission to use tap '{0}': its creator gives it to a user by `ip tuntap add {0} "
          "mode tap user NAME`",
          name);
    case EINVAL:
      if (pairs > 1) {
        return fail(
            "'{0}' is not a tap of several queues: create it by `ip tuntap add {0} mode tap "
            "multi_queue`, or use queues=1",
            name);
      }
      return fail("'{0}' is not a tap: create one by `ip tuntap add NAME mode tap`", name);
    case E2BIG:
      return fail("tap '{}' has no {} queues to give", name, pairs);
    default:
      errno = code;
      return fail_errno("cannot attach to tap '{}'", name);
  }
}

// A machine starts with a tap that is down as well, but nothing passes until somebody ups it.
void warn_when_down(const std::string& name) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto request = request_for(name, 0);
  if (!socket || ::ioctl(socket.get(), SIOCGIFFLAGS, &request) < 0) return;
  if ((request.ifr_flags & IFF_UP) == 0) {
    // check: unlimited-log allowed, at the start
    log::warn("tap '{0}' is down: `ip link set {0} up` lets frames through", name);
  }
}

}  // namespace

TapBackend::TapBackend(std::string name, std::vector<UniqueFd> queues)
    : name_(std::move(name)),
      queues_(std::move(queues)),
      active_(static_cast<unsigned>(queues_.size())) {}

Result<std::unique_ptr<TapBackend>> TapBackend::open(const std::string& name, unsigned pairs) {
  if (name.empty() || name.size() >= IFNAMSIZ || name.find('%') != std::string::npos) {
    return fail("'{}' is not the name of a tap: 1 to {} characters are", name, IFNAMSIZ - 1);
  }
  // TUNSETIFF would create what is missing, for those who may.
  if (::if_nametoindex(name.c_str()) == 0) {
    return fail(
        "tap '{0}' does not exist: create it by `ip tuntap add {0} mode tap user $USER{1}` and "
        "`ip link set {0} up`",
        name, pairs > 1 ? " multi_queue" : "");
  }
  std::vector<UniqueFd> queues;
  for (unsigned i = 0; i < pairs; ++i) {
    auto fd = TRY(open_tun());
    const short multi = IFF_MULTI_QUEUE;
    auto request = request_for(name, static_cast<short>(pairs > 1 ? kFlags | multi : kFlags));
    int result = ::ioctl(fd.get(), TUNSETIFF, &request);
    if (result < 0 && errno == EINVAL && pairs == 1) {
      // The flag must be that of the tap's creation, however many queues are wanted.
      request = request_for(name, static_cast<short>(kFlags | multi));
      result = ::ioctl(fd.get(), TUNSETIFF, &request);
    }
    if (result < 0) return attach_error(name, pairs, errno);
    queues.push_back(std::move(fd));
  }
  std::unique_ptr<TapBackend> tap(new TapBackend(name, std::move(queues)));
  TRY(tap->set_up());
  warn_when_down(name);
  return tap;
}

Result<std::unique_ptr<TapBackend>> TapBackend::adopt(std::span<const int> descriptors) {
  std::string name;
  std::vector<UniqueFd> queues;
  for (const int fd : descriptors) {
    queues.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!queues.back()) return fail("descriptor {} is not open", fd);
    ifreq request{};
    if (::ioctl(fd, TUNGETIFF, &request) < 0) {
      return fail("descriptor {} is not a queue of a tap", fd);
    }
    if ((request.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) != kFlags) {
      return fail("descriptor {} must be opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", fd);
    }
    name = request.ifr_name;
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        ::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
      return fail_errno("cannot set the flags of descriptor {}", fd);
    }
  }
  std::unique_ptr<TapBackend> tap(new TapBackend(std::move(name), std::move(queues)));
  TRY(tap->set_up());
  return tap;
}

Result<void> TapBackend::set_up() {
  for (const auto& queue : queues_) {
    int size = kHeaderSize;
    if (::ioctl(queue.get(), TUNSETVNETHDRSZ, &size) < 0) {
      return fail_errno("tap '{}' takes no header of {} bytes", name_, size);
    }
  }
  return {};
}

std::uint64_t TapBackend::features() const { return virtio_net::kOffloads; }

Result<void> TapBackend::set_offloads(std::uint64_t features) {
  unsigned offload = 0;
  if ((features & virtio_net::kGuestCsum) != 0) {
    offload |= TUN_F_CSUM;
    if ((features & virtio_net::kGuestTso4) != 0) offload |= TUN_F_TSO4;
    if ((features & virtio_net::kGuestTso6) != 0) offload |= TUN_F_TSO6;
    const bool tso = (offload & (TUN_F_TSO4 | TUN_F_TSO6)) != 0;
    if (tso && (features & virtio_net::kGuestEcn) != 0) offload |= TUN_F_TSO_ECN;
  }
  // Holds for the device, so any queue will do.
  if (::ioctl(queues_[0].get(), TUNSETOFFLOAD, offload) < 0) {
    return fail_errno("tap '{}' refuses offloads {:#x}", name_, offload);
  }
  return {};
}

Result<void> TapBackend::start(std::uint64_t features) {
  TRY(set_offloads(features));
  TRY(set_active_pairs(1));
  // What a machine that is gone did not take. Bounded: a busy network refills it for ever.
  std::byte byte;
  const iovec rest{&byte, 1};
  for (int i = 0; i < 4096 && ::readv(queues_[0].get(), &rest, 1) > 0; ++i) {
  }
  return {};
}

void TapBackend::stop() {}

Result<void> TapBackend::set_active_pairs(unsigned pairs) {
  const auto set = [this](unsigned pair, short flag) {
    ifreq request{};
    request.ifr_flags = flag;
    return ::ioctl(queues_[pair].get(), TUNSETQUEUE, &request);
  };
  // While active_ is told last to attach and first to detach, no attached queue seems to be gone.
  for (unsigned pair = active_; pair < pairs; ++pair) {
    if (set(pair, IFF_ATTACH_QUEUE) < 0) {
      return fail_errno("cannot attach queue {} of tap '{}'", pair, name_);
    }
    active_ = pair + 1;
  }
  for (unsigned pair = active_; pair > pairs; --pair) {
    active_ = pair - 1;
    if (set(pair - 1, IFF_DETACH_QUEUE) < 0) {
      return fail_errno("cannot detach queue {} of tap '{}'", pair - 1, name_);
    }
  }
  return {};
}

SendResult TapBackend::send(unsigned pair, std::span<const Frame> frames) {
  SendResult result;
  for (const auto& frame : frames) {
    ssize_t n;
    do {
      n = ::writev(queues_[pair].get(), frame.data(), static_cast<int>(frame.size()));
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
      if (errno == EAGAIN) {
        result.state = IoState::blocked;
        return result;
      }
      if (errno == EBADFD && pair < active_) {  // the tap was deleted
        result.state = IoState::closed;
        return result;
      }
      // EINVAL: a header that makes no sense, EIO: the tap is down, ENOMEM, ...
      ++result.refused;
    }
    ++result.done;
  }
  return result;
}

ReceiveResult TapBackend::receive(unsigned pair, std::span<const iovec> buffers) {
  for (;;) {
    const ssize_t n =
        ::readv(queues_[pair].get(), buffers.data(), static_cast<int>(buffers.size()));
    if (n > 0) return {static_cast<std::size_t>(n), IoState::ready};
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EBADFD && pair < active_) return {0, IoState::closed};
    // EIO, while the tap is down, among others: whatever it is, poll tells when it is over.
    return {0, IoState::blocked};
  }
}

// A tap that is being deleted wakes its readers while read(2) still says EAGAIN, and never again
// (tun_detach_all() in Linux's drivers/net/tun.c); poll(2) knows.
bool TapBackend::is_gone(unsigned pair) const {
  pollfd entry{queues_[pair].get(), 0, 0};
  return pair < active_ && ::poll(&entry, 1, 0) > 0;
}

}  // namespace vmm::net
