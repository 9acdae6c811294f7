#include "firmware/loader/initrd.h"

#include <sys/stat.h>

#include <algorithm>

#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::loader {
namespace {

constexpr std::uint64_t kPage = 4096;

// The end of the memory that may be used, exclusive.
std::uint64_t end_of_room(const GuestMemory& memory, GuestAddress lowest, GuestAddress last) {
  for (const auto& region : memory.regions()) {
    const std::uint64_t offset = lowest.value - region.range.base.value;  // unsigned
    if (offset >= region.range.size) continue;
    const std::uint64_t end = region.range.base.value + region.range.size;
    return last.value < end ? last.value + 1 : end;
  }
  return 0;
}

}  // namespace

Result<LoadedInitrd> load_initrd(const std::string& path, const GuestMemory& memory,
                                 GuestAddress lowest, GuestAddress last) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot open the initrd '{}'", path);
  if (!S_ISREG(status.st_mode)) return fail("'{}' is not a regular file, an initrd must be", path);
  const auto file = TRY(open_file(path, O_RDONLY));
  if (::fstat(file.get(), &status) < 0) return fail_errno("cannot look at '{}'", path);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size == 0) return fail("the initrd '{}' is empty", path);

  const std::uint64_t first = (lowest.value + kPage - 1) & ~(kPage - 1);
  const std::uint64_t end = end_of_room(memory, lowest, last) & ~(kPage - 1);
  const std::uint64_t room = end > first ? end - first : 0;
  if (size > room) {
    return fail(
        "the initrd '{}' has {} bytes, the guest's memory has room for {} between {:#x} and {:#x}",
        path, size, room, first, std::max(first, end));
  }
  const GuestAddress address{(end - size) & ~(kPage - 1)};
  const auto target = TRY(memory.slice(address, size));
  const auto read = read_exact_at(file.get(), target, 0);
  if (!read) return fail("the initrd '{}' cannot be read: {}", path, read.error().message());
  return LoadedInitrd{address, size};
}

}  // namespace vmm::loader
