// ChunkSet: a set of numbers below a bound that may be huge: what nothing was inserted near to
// takes no memory. A bit a number otherwise, in pages that the host backs when they are touched.
//
//   ChunkSet written(disk_size / chunk_size);
//   written.insert(7);                          // any thread
//   for (auto n = written.next(0); n < written.size(); n = written.next(n + 1)) ...
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace vmm::disk {

class ChunkSet {
 public:
  explicit ChunkSet(std::uint64_t size);
  ChunkSet(const ChunkSet&) = delete;
  ~ChunkSet() { clear(); }

  std::uint64_t size() const { return size_; }
  // Of numbers below size(). Any thread.
  bool contains(std::uint64_t number) const;
  void insert(std::uint64_t number);
  // The first member from `number` on; size() when there is none.
  std::uint64_t next(std::uint64_t number) const;

  // While nobody else uses the set.
  void clear();
  void assign(const ChunkSet& other);  // of the same size

 private:
  std::uint64_t* make_page(std::uint64_t index);

  std::uint64_t size_;
  unsigned page_bits_;  // numbers of a page, as a power of two
  std::vector<std::atomic<std::uint64_t*>> pages_;
};

}  // namespace vmm::disk
