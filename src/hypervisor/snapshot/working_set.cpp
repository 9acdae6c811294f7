#include "src/hypervisor/snapshot/working_set.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "src/base/log.h"
#include "src/base/thread.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/page_map.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::snapshot {
namespace {

// Bytes of the file: a million extents.
constexpr std::size_t kMaxWorkingSet = 16u << 20;
// Pages between two extents that are brought in with them: one call costs more than they do.
constexpr std::uint64_t kGap = 16u << 10;
// What one call brings in, so that the end of the machine does not wait long for it.
constexpr std::uint64_t kStep = 1u << 20;

// Under the lock that a removal takes too: nothing appears in a directory that is going.
Result<void> write_into(const std::string& directory, std::span<const std::byte> bytes) {
  const UniqueFd handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!handle) return fail_errno("cannot open '{}'", directory);
  if (::flock(handle.get(), LOCK_EX | LOCK_NB) < 0) return fail_errno("'{}' is locked", directory);
  if (::faccessat(handle.get(), kManifestFile.data(), F_OK, 0) < 0) {
    return fail("'{}' is being removed", directory);
  }
  // What a killed process left goes, and with it what is there instead: a FIFO would be waited for.
  (void)::unlinkat(handle.get(), kWorkingSetPartial.data(), 0);
  const UniqueFd file(::openat(handle.get(), kWorkingSetPartial.data(),
                               O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return fail_errno("cannot make '{}/{}'", directory, kWorkingSetPartial);
  if (const auto written = write_all(file.get(), bytes); !written) {
    ::unlinkat(handle.get(), kWorkingSetPartial.data(), 0);
    return written;
  }
  if (::renameat(handle.get(), kWorkingSetPartial.data(), handle.get(), kWorkingSetFile.data()) <
      0) {
    return fail_errno("cannot make '{}/{}'", directory, kWorkingSetFile);
  }
  return {};
}

}  // namespace

Result<void> record_working_set(const GuestMemory& memory, const std::string& directory,
                                const std::string& digest) {
  WorkingSet set{digest, {}};
  const auto map = TRY(PageMap::open());
  for (const auto& region : memory.regions()) {
    TRY(map.for_each(region, [&](std::uint64_t offset, PageUse use) {
      if (!use.resident) return;
      auto& extents = set.extents;
      if (!extents.empty() && offset - (extents.back().offset + extents.back().length) <= kGap) {
        extents.back().length = offset + PageMap::kPage - extents.back().offset;
      } else {
        extents.push_back({offset, PageMap::kPage});
      }
    }));
  }
  state::Sections sections;
  sections.put(WorkingSet::kKind, set);
  const auto bytes = TRY(sections.to_bytes());
  if (bytes.size() > kMaxWorkingSet) return fail("a working set of {} bytes", bytes.size());
  return write_into(directory, bytes);
}

std::vector<Extent> read_working_set(const std::string& directory, const std::string& digest,
                                     std::uint64_t memory_size) {
  const auto text = read_part(directory, kWorkingSetFile, kMaxWorkingSet);
  if (!text) return {};
  auto sections = state::Sections::from_bytes(std::as_bytes(std::span(text->data(), text->size())));
  if (!sections) return {};
  auto set = sections->take<WorkingSet>(WorkingSet::kKind);
  if (!set || set->digest != digest) return {};
  const bool fits = std::ranges::all_of(set->extents, [&](const Extent& extent) {
    return extent.offset % PageMap::kPage == 0 && extent.length % PageMap::kPage == 0 &&
           extent.offset <= memory_size && extent.length <= memory_size - extent.offset;
  });
  if (!fits) return {};
  return std::move(set->extents);
}

Prefetcher::Prefetcher(const GuestMemory& memory, std::vector<Extent> extents) {
  auto bring_in = [&memory, extents = std::move(extents), stop = stop_.get_token()] {
    for (const auto& extent : extents) {
      for (const auto& region : memory.regions()) {
        auto left = region.piece(extent.offset, extent.length).bytes;
        while (!left.empty()) {
          if (stop.stop_requested()) return;
          const auto step = left.first(std::min(kStep, left.size()));
          left = left.subspan(step.size());
          // Before Linux 5.14 it is refused, and readahead must do.
          if (::madvise(step.data(), step.size(), MADV_POPULATE_READ) < 0) {
            (void)::madvise(step.data(), step.size(), MADV_WILLNEED);
          }
        }
      }
    }
  };
  auto thread = start_thread("prefetch", std::move(bring_in));
  if (thread) {
    thread_ = std::move(*thread);
  } else {
    // The guest brings its pages in itself, one at a time.
    log::info("working set: {}", thread.error().message());
  }
}

Prefetcher::~Prefetcher() {
  stop_.request_stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace vmm::snapshot
