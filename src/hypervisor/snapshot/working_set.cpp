#include "src/hypervisor/snapshot/working_set.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

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
  WorkingSet set{digest, {}, {}};
  const auto map = TRY(PageMap::open());
  for (const auto& region : memory.regions()) {
    TRY(map.for_each(region, [&](std::uint64_t offset, PageUse use) {
      if (!use.resident) return;
      // A page in a gap costs no memory where it is read, as the file's is there anyway.
      auto& extents = use.shared ? set.touched : set.written;
      const std::uint64_t gap = use.shared ? kGap : 0;
      if (!extents.empty() && offset - (extents.back().offset + extents.back().length) <= gap) {
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

WorkingSet read_working_set(const std::string& directory, const std::string& digest,
                            std::uint64_t memory_size) {
  const auto text = read_part(directory, kWorkingSetFile, kMaxWorkingSet);
  if (!text) return {};
  auto sections = state::Sections::from_bytes(std::as_bytes(std::span(text->data(), text->size())));
  if (!sections) return {};
  auto set = sections->take<WorkingSet>(WorkingSet::kKind);
  if (!set || set->digest != digest) return {};
  const auto fits = [memory_size](const Extent& extent) {
    return extent.offset % PageMap::kPage == 0 && extent.length % PageMap::kPage == 0 &&
           extent.offset <= memory_size && extent.length <= memory_size - extent.offset;
  };
  if (!std::ranges::all_of(set->touched, fits) || !std::ranges::all_of(set->written, fits)) {
    return {};
  }
  return std::move(*set);
}

WorkingSet take_first(WorkingSet& set, std::uint64_t bytes) {
  WorkingSet first{set.digest, {}, {}};
  const auto take = [&bytes](std::vector<Extent>& from, std::vector<Extent>& to) {
    auto it = from.begin();
    for (; it != from.end() && bytes > 0; ++it) {
      const auto length = std::min(bytes, it->length);
      to.push_back({it->offset, length});
      bytes -= length;
      if (length == it->length) continue;
      it->offset += length;
      it->length -= length;
      break;
    }
    from.erase(from.begin(), it);
  };
  take(set.written, first.written);
  take(set.touched, first.touched);
  std::ranges::move(set.written, std::back_inserter(set.touched));
  set.written.clear();
  return first;
}

namespace {

// Each piece in the host's memory, a step at a time, until `goes_on` says no.
template <typename GoesOn>
void bring_in(const GuestMemory& memory, std::span<const Extent> extents, int advice,
              const GoesOn& goes_on) {
  for (const auto& extent : extents) {
    for (const auto& region : memory.regions()) {
      auto [offset, left] = region.piece(extent.offset, extent.length);
      while (!left.empty()) {
        const auto step = left.first(std::min(kStep, left.size()));
        // Before Linux 5.14 it is refused, and readahead must do.
        if (::madvise(step.data(), step.size(), advice) < 0) {
          (void)::madvise(step.data(), step.size(), MADV_WILLNEED);
        }
        const auto base = region.range.base.value + (offset - region.flat_offset);
        if (!goes_on(GuestAddress{base}, step.size())) return;
        left = left.subspan(step.size());
        offset += step.size();
      }
    }
  }
}

}  // namespace

void bring_in(const GuestMemory& memory, const WorkingSet& set, const MapForGuest& map) {
  bool goes_on = true;
  const auto told = [&](GuestAddress base, std::uint64_t length) {
    return goes_on = map(base, length);
  };
  bring_in(memory, set.written, MADV_POPULATE_WRITE, told);
  if (goes_on) bring_in(memory, set.touched, MADV_POPULATE_READ, told);
}

Prefetcher::Prefetcher(const GuestMemory& memory, WorkingSet set) {
  auto work = [&memory, set = std::move(set), stop = stop_.get_token()] {
    bring_in(memory, set, [&stop](GuestAddress, std::uint64_t) { return !stop.stop_requested(); });
  };
  auto thread = start_thread("prefetch", std::move(work));
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
