#include "src/disk/qcow2/l2_cache.h"

namespace vmm::disk::qcow2 {

void L2Cache::touch(L2Table* table) { tables_.splice(tables_.begin(), tables_, table->place); }

L2Table& L2Cache::insert(L2Table table) {
  evict();
  tables_.push_front(std::move(table));
  L2Table& inserted = tables_.front();
  inserted.place = tables_.begin();
  by_index_[inserted.l1_index] = &inserted;
  return inserted;
}

void L2Cache::evict() {
  // What cannot go stays for a while: flushes are due before half of the tables are dirty.
  for (auto it = tables_.end(); it != tables_.begin() && tables_.size() >= capacity_;) {
    --it;
    if (it->is_dirty() || it->fresh || it->being_written) continue;
    by_index_[it->l1_index] = nullptr;
    it = tables_.erase(it);
  }
}

void L2Cache::mark_dirty(L2Table& table, std::uint64_t begin, std::uint64_t end) {
  if (begin >= end) return;
  if (!table.is_dirty()) {
    ++dirty_;
    table.dirty_begin = begin;
    table.dirty_end = end;
    return;
  }
  table.dirty_begin = std::min(table.dirty_begin, begin);
  table.dirty_end = std::max(table.dirty_end, end);
}

void L2Cache::set(L2Table& table, std::uint64_t index, std::uint64_t entry) {
  table.entries[index] = __builtin_bswap64(entry);
  mark_dirty(table, index, index + 1);
}

void L2Cache::mark_clean(L2Table& table) {
  if (table.is_dirty()) --dirty_;
  table.dirty_begin = table.dirty_end = 0;
}

}  // namespace vmm::disk::qcow2
