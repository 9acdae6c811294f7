#include "guest-images/agent/machine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/random.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <span>
#include <vector>

#include "guest-images/agent/network.h"
#include "src/base/unique_fd.h"

namespace vmm::agent {
namespace {

using namespace protocol::agent;

Result<void> add_random(const protocol::Bytes& seed) {
  constexpr std::size_t kMaxSeed = 4096;
  if (seed.size() > kMaxSeed)
    return fail("a seed of {} bytes, expected at most {}", seed.size(), kMaxSeed);
  const auto device = TRY(open_file("/dev/urandom", O_WRONLY));
  std::vector<int> words(sizeof(rand_pool_info) / sizeof(int) + (seed.size() + 3) / sizeof(int));
  auto* const info = reinterpret_cast<rand_pool_info*>(words.data());
  info->entropy_count = static_cast<int>(seed.size() * 8);
  info->buf_size = static_cast<int>(seed.size());
  if (!seed.empty()) std::memcpy(info->buf, seed.data(), seed.size());
  if (::ioctl(device.get(), RNDADDENTROPY, info) < 0 || ::ioctl(device.get(), RNDRESEEDCRNG) < 0) {
    return fail_errno("cannot seed the kernel's random numbers");
  }
  return {};
}

// The disk of a slot that was filled while the machine stood still: the driver hears of it in its
// own time. The kernel tells nobody when an empty device gets a size (set_capacity_and_notify).
// Persistent memory gets its device beside the loading of its driver (nd_device_register()), and a
// name that opens a moment after that (device_add_disk()).
Result<void> wait_for_disk(const std::string& device) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kPatience{5};
  constexpr int kTurn = 1;  // milliseconds
  UniqueFd disk;
  int why_closed = 0;
  std::uint64_t size = 0;
  for (const auto deadline = Clock::now() + kPatience;;) {
    if (!disk) disk = UniqueFd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
    if (!disk) why_closed = errno;
    if (!disk && errno != ENOENT && errno != ENXIO) return fail_errno("cannot open '{}'", device);
    if (disk && ::ioctl(disk.get(), BLKGETSIZE64, &size) < 0) {
      return fail_errno("cannot ask '{}'", device);
    }
    if (size > 0) return {};
    if (Clock::now() > deadline) {
      if (disk) return fail("there is no disk in '{}'", device);
      errno = why_closed;
      return fail_errno("cannot open '{}'", device);
    }
    (void)::poll(nullptr, 0, kTurn);
  }
}

Result<void> mount_device(const std::string& device, const std::string& type, const std::string& at,
                          unsigned long flags, const char* data) {
  TRY(make_directories(at));
  if (device.starts_with("/dev/")) TRY(wait_for_disk(device));
  if (::mount(device.c_str(), at.c_str(), type.c_str(), flags, data) < 0) {
    return fail_errno("cannot mount '{}' ({})", device, type);
  }
  return {};
}

bool is_mount_point(const std::string& path) {
  struct stat here{}, above{};
  return ::stat(path.c_str(), &here) == 0 && ::stat((path + "/..").c_str(), &above) == 0 &&
         here.st_dev != above.st_dev;
}

}  // namespace

void wait_for_mapped_image() {
  std::error_code none;
  for (const auto& entry :
       std::filesystem::directory_iterator("/sys/bus/virtio/drivers/virtio_pmem", none)) {
    // A template is saved soon after this, and who goes on from it would describe the memory anew.
    if (entry.path().filename().string().starts_with("virtio")) (void)wait_for_disk("/dev/pmem0");
  }
}

Welcome welcome() {
  Welcome answer;
  utsname name{};
  if (::uname(&name) == 0) answer.kernel = name.release;
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  answer.uptime = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
                  static_cast<std::uint64_t>(now.tv_nsec);
  return answer;
}

Result<void> write_container_file(const Places& places, const std::string& name,
                                  const std::string& text) {
  TRY(make_directories(places.files));
  const auto file = TRY(open_file(places.files + "/" + name, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(file.get(), std::as_bytes(std::span(text)));
}

Result<void> configure(const Configure& request, const Places& places) {
  if (!request.host_name.empty() &&
      ::sethostname(request.host_name.data(), request.host_name.size()) < 0) {
    return fail_errno("cannot set the host name '{}'", request.host_name);
  }
  if (request.clock) {
    const timespec time{static_cast<time_t>(*request.clock / 1'000'000'000u),
                        static_cast<long>(*request.clock % 1'000'000'000u)};
    if (::clock_settime(CLOCK_REALTIME, &time) < 0) return fail_errno("cannot set the clock");
  }
  if (!request.seed.empty()) TRY(add_random(request.seed));
  if (request.hosts) TRY(write_container_file(places, "hosts", *request.hosts));
  if (request.resolv_conf) TRY(write_container_file(places, "resolv.conf", *request.resolv_conf));
  for (const Interface& interface : request.interfaces) TRY(set_up_interface(interface));
  return {};
}

Result<void> set_host_name(int first_process, const std::string& name, const Places& places) {
  const auto own = TRY(open_file("/proc/self/ns/uts", O_RDONLY));
  if (::setns(first_process, CLONE_NEWUTS) < 0) {
    if (errno == ESRCH) return {};  // it has ended just now
    return fail_errno("cannot reach the container");
  }
  const bool set = ::sethostname(name.data(), name.size()) == 0;
  auto result = set ? Result<void>() : fail_errno("cannot set the host name '{}'", name);
  if (::setns(own.get(), CLONE_NEWUTS) < 0) return fail_errno("cannot leave the container");
  TRY(std::move(result));
  return write_container_file(places, "hostname", name + "\n");
}

Result<void> mount_root(const MountRoot& request, const Places& places) {
  TRY(make_directories(places.root));
  if (is_mount_point(places.root)) return fail("the container's root is mounted already");
  const char* const options =
      request.image_options.empty() ? nullptr : request.image_options.c_str();
  if (request.read_only) {
    return mount_device(request.image, request.image_type, places.root, MS_RDONLY, options);
  }
  TRY(mount_device(request.image, request.image_type, places.image, MS_RDONLY, options));
  if (request.writable.empty()) {
    TRY(mount_device("tmpfs", "tmpfs", places.writable, 0, "mode=755"));
  } else {
    // Without the thread that would write inode tables for a minute.
    const char* const data = request.writable_type == "ext4" ? "discard,noinit_itable" : nullptr;
    TRY(mount_device(request.writable, request.writable_type, places.writable, MS_NOATIME, data));
  }
  const std::string upper = places.writable + "/upper", work = places.writable + "/work";
  TRY(make_directories(upper));
  TRY(make_directories(work));
  // What is moved is copied, so that the upper directory says by itself what was changed.
  const std::string layers =
      fmt::format("lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off", places.image,
                  upper, work);
  return mount_device("overlay", "overlay", places.root, 0, layers.c_str());
}

Result<void> mount_share(const MountShare& request) {
  if (request.name.empty() || request.name.contains('/') || request.name == "." ||
      request.name == "..") {
    return fail("invalid name '{}' of a share", request.name);
  }
  return mount_device(request.tag, "virtiofs", std::string(kShares) + "/" + request.name,
                      MS_NOSUID | MS_NODEV, nullptr);
}

// sync(2) tells of no error, syncfs(2) does.
Result<void> sync_files(const Places& places) {
  for (const auto& path : {places.root, places.writable}) {
    const UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory && errno == ENOENT) continue;
    if (!directory || ::syncfs(directory.get()) < 0) return fail_errno("cannot sync '{}'", path);
  }
  ::sync();
  return {};
}

Result<void> power_off(const PowerOff& request, const Places& places) {
  if (::getpid() != 1) return fail("the agent is not the machine's first process");
  ::kill(-1, SIGKILL);
  while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
  }
  for (const auto& path : {places.root, places.writable}) {
    (void)::umount2(path.c_str(), 0);  // or not mounted; Sync tells of errors
  }
  ::sync();
  ::reboot(request.reboot ? RB_AUTOBOOT : RB_POWER_OFF);
  return fail_errno("cannot end the machine");
}

}  // namespace vmm::agent
