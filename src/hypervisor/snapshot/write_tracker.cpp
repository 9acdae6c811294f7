#include "src/hypervisor/snapshot/write_tracker.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>

#include "src/base/mapping.h"
#include "src/hypervisor/snapshot/page_map.h"
#include "src/hypervisor/snapshot/userfaultfd.h"

namespace vmm::snapshot {
namespace {

// Later than the headers of Debian 12.
constexpr std::uint64_t kWriteProtectAsync = 1ull << 15;  // UFFD_FEATURE_WP_ASYNC

Result<void> clear_soft_dirty() {
  const UniqueFd fd(::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
  if (!fd) return fail_errno("/proc/self/clear_refs");
  constexpr std::array<char, 1> kSoftDirty = {'4'};
  return write_all(fd.get(), std::as_bytes(std::span(kSoftDirty)));
}

// A kernel without soft-dirty bits takes the request and tracks nothing: seen by a page.
Result<bool> has_soft_dirty() {
  const auto page =
      TRY(Mapping::create(PageMap::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  auto* byte = reinterpret_cast<volatile unsigned char*>(page.data());
  *byte = 1;
  TRY(clear_soft_dirty());
  const auto map = TRY(PageMap::open());
  const auto is_dirty = [&]() -> Result<bool> {
    bool dirty = false;
    const GuestMemory::Region region{{GuestAddress{0}, PageMap::kPage}, page.data()};
    TRY(map.for_each(region, [&](std::uint64_t, PageUse use) { dirty = use.soft_dirty; }));
    return dirty;
  };
  const bool before = TRY(is_dirty());
  *byte = 2;
  return !before && TRY(is_dirty());
}

}  // namespace

Result<Tracking> WriteTracker::restart(const GuestMemory& memory) {
  if (restart(memory, Tracking::soft_dirty)) return Tracking::soft_dirty;
  if (const auto result = restart(memory, Tracking::write_protected); !result) {
    return fail(
        "this host's kernel does not say which pages were written, neither by soft-dirty bits "
        "(CONFIG_MEM_SOFT_DIRTY) nor by write protection (Linux 6.7): {}",
        result.error().message());
  }
  return Tracking::write_protected;
}

Result<void> WriteTracker::restart(const GuestMemory& memory, Tracking how) {
  memory.record_discards();
  if (how == Tracking::write_protected) return protect(memory);
  static const bool tracks = has_soft_dirty().value_or(false);
  return tracks ? clear_soft_dirty() : fail("this host's kernel has no soft-dirty bits");
}

Result<void> WriteTracker::protect(const GuestMemory& memory) {
  // Nobody is told of a fault, so that those of the kernel need no permission.
  if (!protection_) {
    protection_ = TRY(
        open_userfaultfd(FaultsOf::program, UFFD_FEATURE_PAGEFAULT_FLAG_WP | kWriteProtectAsync));
  }
  for (const auto& region : memory.regions()) {
    // Each time: what the guest gave back may be mapped anew, and unregistered.
    TRY(register_pages(protection_, std::span(region.host, region.range.size),
                       UFFDIO_REGISTER_MODE_WP));
    uffdio_writeprotect write_protect{
        .range = {.start = reinterpret_cast<std::uintptr_t>(region.host), .len = region.range.size},
        .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    while (::ioctl(protection_.get(), UFFDIO_WRITEPROTECT, &write_protect) < 0) {
      if (errno != EAGAIN && errno != EINTR) return fail_errno("UFFDIO_WRITEPROTECT");
    }
  }
  return {};
}

}  // namespace vmm::snapshot
