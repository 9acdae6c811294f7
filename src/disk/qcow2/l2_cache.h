// L2Cache: the L2 tables of an image that were used last, within bounds; one a table of the L1.
//
// Not for several threads: Image's lock is held.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "src/disk/qcow2/header.h"

namespace vmm::disk::qcow2 {

struct L2Table {
  std::uint32_t l1_index = 0;
  std::uint64_t offset = 0;  // in the file
  // As in the file, big-endian.
  std::vector<std::uint64_t> entries;
  // Entries that the file does not have yet: [dirty_begin, dirty_end).
  std::uint64_t dirty_begin = 0;
  std::uint64_t dirty_end = 0;
  bool fresh = false;          // nothing in the file points to it yet
  bool being_written = false;  // by a flush
  std::list<L2Table>::iterator place;

  std::uint64_t get(std::uint64_t index) const { return __builtin_bswap64(entries[index]); }
  bool is_dirty() const { return dirty_begin < dirty_end; }
};

class L2Cache {
 public:
  explicit L2Cache(const Header& header)
      : by_index_(header.l1_entries),
        capacity_(std::max<std::size_t>(4, kBytes >> header.cluster_bits)) {}

  // The image has more tables from now on.
  void grow(std::uint32_t l1_entries) { by_index_.resize(l1_entries); }

  L2Table* find(std::uint32_t l1_index) {
    L2Table* table = by_index_[l1_index];
    if (table != nullptr && &tables_.front() != table) touch(table);
    return table;
  }
  L2Table& insert(L2Table table);

  void set(L2Table& table, std::uint64_t index, std::uint64_t entry);
  void mark_dirty(L2Table& table, std::uint64_t begin, std::uint64_t end);
  void mark_clean(L2Table& table);
  std::size_t dirty() const { return dirty_; }
  // A flush is due, so that there are always tables to evict.
  bool is_full_of_dirt() const { return dirty_ > capacity_ / 2; }

  std::list<L2Table>& tables() { return tables_; }

 private:
  static constexpr std::size_t kBytes = 32u << 20;
  void touch(L2Table* table);
  void evict();

  std::list<L2Table> tables_;  // the one used last comes first
  std::vector<L2Table*> by_index_;
  const std::size_t capacity_;
  std::size_t dirty_ = 0;
};

}  // namespace vmm::disk::qcow2
