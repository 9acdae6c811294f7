#include "src/hypervisor/snapshot/page_map.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <array>

#include "src/base/mapping.h"
#include "src/base/unique_fd.h"

namespace vmm::snapshot {
namespace {

Result<void> write_clear_refs() {
  const UniqueFd fd(::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
  if (!fd) return fail_errno("/proc/self/clear_refs");
  constexpr std::array<char, 1> kSoftDirty = {'4'};
  return write_all(fd.get(), std::as_bytes(std::span(kSoftDirty)));
}

// A kernel without CONFIG_MEM_SOFT_DIRTY takes the request and tracks nothing: seen by a page.
Result<bool> tracks() {
  const auto page =
      TRY(Mapping::create(PageMap::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  auto* byte = reinterpret_cast<volatile unsigned char*>(page.data());
  *byte = 1;
  TRY(write_clear_refs());
  const auto map = TRY(PageMap::open());
  const auto is_dirty = [&]() -> Result<bool> {
    bool dirty = false;
    const GuestMemory::Region region{{GuestAddress{0}, PageMap::kPage}, page.data()};
    TRY(map.for_each(region, [&](std::uint64_t, PageUse use) { dirty = use.dirty; }));
    return dirty;
  };
  const bool before = TRY(is_dirty());
  *byte = 2;
  return !before && TRY(is_dirty());
}

}  // namespace

Result<PageMap> PageMap::open() {
  UniqueFd fd(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("/proc/self/pagemap");
  return PageMap(std::move(fd));
}

Result<void> PageMap::read(const std::byte* from, std::uint64_t size,
                           std::vector<std::uint64_t>& entries) const {
  entries.resize(size / kPage);
  const auto offset = reinterpret_cast<std::uintptr_t>(from) / kPage * sizeof(std::uint64_t);
  return read_exact_at(fd_.get(), std::as_writable_bytes(std::span(entries)), offset);
}

Result<void> clear_dirty() {
  static const bool tracking = tracks().value_or(false);
  if (!tracking) {
    return fail("this host's kernel does not say which pages were written (CONFIG_MEM_SOFT_DIRTY)");
  }
  return write_clear_refs();
}

}  // namespace vmm::snapshot
