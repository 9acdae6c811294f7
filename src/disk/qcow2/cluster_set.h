// ClusterSet: numbers of clusters, sorted. Lookups are quick, the memory is that of the numbers;
// new clusters mostly lie behind all others, so that an insertion moves little.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vmm::disk::qcow2 {

class ClusterSet {
 public:
  // False: it has it already.
  bool add(std::uint64_t cluster) {
    const auto place = std::ranges::lower_bound(clusters_, cluster);
    if (place != clusters_.end() && *place == cluster) return false;
    clusters_.insert(place, cluster);
    return true;
  }
  void remove(std::uint64_t cluster) {
    const auto place = std::ranges::lower_bound(clusters_, cluster);
    if (place != clusters_.end() && *place == cluster) clusters_.erase(place);
  }
  bool contains(std::uint64_t cluster) const {
    return std::ranges::binary_search(clusters_, cluster);
  }
  // How many clusters from `first` on, at most `count`, come before one that it has.
  std::uint64_t free_from(std::uint64_t first, std::uint64_t count) const {
    const auto place = std::ranges::lower_bound(clusters_, first);
    return place == clusters_.end() ? count : std::min(count, *place - first);
  }

  // Many at once, in any order. Returns those that come twice, or that it had.
  std::vector<std::uint64_t> add_all(const std::vector<std::uint64_t>& clusters) {
    clusters_.insert(clusters_.end(), clusters.begin(), clusters.end());
    std::ranges::sort(clusters_);
    std::vector<std::uint64_t> twice;
    for (std::size_t i = 1; i < clusters_.size(); ++i) {
      if (clusters_[i] == clusters_[i - 1]) twice.push_back(clusters_[i]);
    }
    const auto rest = std::ranges::unique(clusters_);
    clusters_.erase(rest.begin(), rest.end());
    return twice;
  }

 private:
  std::vector<std::uint64_t> clusters_;
};

}  // namespace vmm::disk::qcow2
