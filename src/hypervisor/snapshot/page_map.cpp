#include "src/hypervisor/snapshot/page_map.h"

#include <fcntl.h>

#include "src/base/unique_fd.h"

namespace vmm::snapshot {
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

}  // namespace vmm::snapshot
