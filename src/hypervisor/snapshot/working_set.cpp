#include "src/hypervisor/snapshot/working_set.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "src/base/unique_fd.h"
#include "src/base/worker.h"
#include "src/hypervisor/snapshot/page_map.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::snapshot {
namespace {

constexpr std::string_view kFile = "working-set";
// Pages between two extents that are brought in with them: one call costs more than they do.
constexpr std::uint64_t kGap = 16u << 10;
// What one call brings in, so that the end of the machine does not wait long for it.
constexpr std::uint64_t kStep = 1u << 20;

std::string path_in(const std::string& directory) { return directory + "/" + std::string(kFile); }

}  // namespace

Result<void> record_working_set(const GuestMemory& memory, const std::string& directory,
                                const std::string& digest) {
  WorkingSet set{digest, {}};
  const auto map = TRY(PageMap::open());
  for (const auto& region : memory.regions()) {
    TRY(map.for_each(region, [&](std::uint64_t offset, PageUse use) {
      if (!use.present) return;
      auto& extents = set.extents;
      if (!extents.empty() && offset - (extents.back().offset + extents.back().length) <= kGap) {
        extents.back().length = offset + PageMap::kPage - extents.back().offset;
      } else {
        extents.push_back({offset, PageMap::kPage});
      }
    }));
  }
  state::Sections sections;
  sections.put("working-set", set);
  const auto bytes = sections.to_bytes();
  const std::string partial = fmt::format("{}.{}", path_in(directory), ::getpid());
  const UniqueFd file(::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return fail_errno("cannot make '{}'", partial);
  if (const auto written = write_all(file.get(), bytes); !written) {
    ::unlink(partial.c_str());
    return written;
  }
  if (::rename(partial.c_str(), path_in(directory).c_str()) < 0) {
    return fail_errno("cannot make '{}'", path_in(directory));
  }
  return {};
}

std::vector<Extent> read_working_set(const std::string& directory, const std::string& digest,
                                     std::uint64_t memory_size) {
  const auto text = read_text_file(path_in(directory));
  if (!text) return {};
  auto sections = state::Sections::from_bytes(std::as_bytes(std::span(text->data(), text->size())));
  if (!sections) return {};
  auto set = sections->take<WorkingSet>("working-set");
  if (!set || set->digest != digest) return {};
  const bool fits = std::ranges::all_of(set->extents, [&](const Extent& extent) {
    return extent.offset % PageMap::kPage == 0 && extent.length % PageMap::kPage == 0 &&
           extent.offset <= memory_size && extent.length <= memory_size - extent.offset;
  });
  if (!fits) return {};
  return std::move(set->extents);
}

Prefetcher::Prefetcher(const GuestMemory& memory, std::vector<Extent> extents) {
  thread_ = std::jthread([&memory, extents = std::move(extents)](const std::stop_token& stop) {
    set_thread_name("prefetch");
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
  });
}

Prefetcher::~Prefetcher() = default;

}  // namespace vmm::snapshot
