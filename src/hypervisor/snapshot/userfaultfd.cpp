#include "src/hypervisor/snapshot/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace vmm::snapshot {

Result<UniqueFd> open_userfaultfd(FaultsOf faults, std::uint64_t features) {
  int flags = O_CLOEXEC | O_NONBLOCK;
  UniqueFd fd;
  if (faults == FaultsOf::program) {
    flags |= UFFD_USER_MODE_ONLY;
  } else if (const UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); device) {
    fd = UniqueFd(::ioctl(device.get(), USERFAULTFD_IOC_NEW, flags));
  }
  if (!fd) fd = UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, flags)));
  if (!fd) return fail_errno("userfaultfd");
  uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
  if (::ioctl(fd.get(), UFFDIO_API, &api) < 0) return fail_errno("UFFDIO_API");
  return fd;
}

Result<std::uint64_t> register_pages(const UniqueFd& userfaultfd, std::span<const std::byte> pages,
                                     std::uint64_t mode) {
  uffdio_register request{
      .range = {.start = reinterpret_cast<std::uintptr_t>(pages.data()), .len = pages.size()},
      .mode = mode,
      .ioctls = 0};
  if (::ioctl(userfaultfd.get(), UFFDIO_REGISTER, &request) < 0) {
    return fail_errno("UFFDIO_REGISTER");
  }
  return std::uint64_t{request.ioctls};
}

}  // namespace vmm::snapshot
