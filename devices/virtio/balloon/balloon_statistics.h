// What the guest says about its memory (virtio 1.2, 5.5.6.4; tags from 10 on are Linux's since
// 6.12).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace vmm::virtio {

// In the order of their tags. Amounts of memory are in bytes.
enum class BalloonStatistic : std::uint16_t {
  swap_in,
  swap_out,
  major_faults,
  minor_faults,
  free_memory,
  total_memory,
  available_memory,
  disk_caches,
  hugetlb_allocations,
  hugetlb_failures,
  oom_kills,
  allocation_stalls,
  async_scans,
  direct_scans,
  async_reclaims,
  direct_reclaims,
};

inline constexpr std::array<std::string_view, 16> kBalloonStatisticNames{
    "swap_in",          "swap_out",     "major_faults",
    "minor_faults",     "free_memory",  "total_memory",
    "available_memory", "disk_caches",  "hugetlb_allocations",
    "hugetlb_failures", "oom_kills",    "allocation_stalls",
    "async_scans",      "direct_scans", "async_reclaims",
    "direct_reclaims",
};

// One report. A guest leaves out what it does not count.
struct BalloonStatistics {
  std::array<std::optional<std::uint64_t>, kBalloonStatisticNames.size()> values;

  std::optional<std::uint64_t> get(BalloonStatistic statistic) const {
    return values[static_cast<std::size_t>(statistic)];
  }
};

}  // namespace vmm::virtio
