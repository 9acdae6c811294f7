// The way of changes to the file; the stages are those of image.h.
#include <algorithm>
#include <array>

#include "src/disk/qcow2/image.h"

namespace vmm::disk::qcow2 {
namespace {

// Unmapped clusters that wait for a flush.
constexpr std::size_t kMaxFreed = 16384;
// Entries that are written together, so that a page of the cache is not read for less.
constexpr std::uint64_t kEntriesTogether = 64;

}  // namespace

struct Image::Piece {
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> entries;  // big-endian
};

// What one flush has taken out of the caches.
struct Image::Writing {
  struct Dirty {
    L2Table* table;
    std::uint64_t begin, end;
    bool fresh;
  };
  std::vector<Dirty> tables;
  std::vector<std::uint32_t> l1;
  std::vector<Freed> freed;
  std::vector<Piece> pieces;  // in the order in which they are written
};

int Image::flush_when_due() {
  {
    std::lock_guard lock(mutex_);
    if (!cache_->is_full_of_dirt() && freed_.size() < kMaxFreed && !refcounts_->is_full_of_dirt()) {
      return 0;
    }
  }
  return flush();
}

int Image::flush() {
  std::lock_guard flushing(flush_mutex_);
  if (access_ == Access::read) return 0;
  if (is_clean() && unmapped_.empty()) return storage_.sync();
  Writing writing;
  std::uint64_t covered = 0;
  int error = 0;
  {
    std::lock_guard lock(mutex_);
    covered = changes_.load(std::memory_order_acquire);
    error = refcounts_->write_back();
    if (error == 0) error = collect(writing);
    if (refcounts_->is_dirty()) changed();  // a table that moved was freed: for the next flush
  }
  if (error == 0) error = storage_.sync();
  if (error == 0 && !writing.pieces.empty()) {
    error = write_pieces(writing);
    if (error == 0) error = storage_.sync();
  }
  finish(writing, error);
  if (error != 0) return error;
  clean_.store(covered, std::memory_order_release);
  reclaim();
  return 0;
}

int Image::settle() {
  // What the first one unmaps, the second one counts.
  int error = flush();
  if (error == 0 && !is_clean()) error = flush();
  if (error == 0) storage_.trim();
  return error;
}

// Copies what is dirty, so that it can be written while others change it.
int Image::collect(Writing& writing) {
  for (L2Table& table : cache_->tables()) {
    if (!table.is_dirty()) continue;
    std::uint64_t begin = round_down(table.dirty_begin, kEntriesTogether);
    std::uint64_t end = std::min(round_up(table.dirty_end, kEntriesTogether), header_.l2_entries());
    const bool fresh = table.fresh;
    if (fresh) {
      begin = 0, end = header_.l2_entries();
      const auto bytes = std::as_bytes(std::span(table.entries));
      if (const int error = storage_.write(table.offset, bytes); error != 0) return error;
    } else {
      writing.pieces.push_back(
          {table.offset + begin * 8,
           std::vector(table.entries.begin() + static_cast<std::ptrdiff_t>(begin),
                       table.entries.begin() + static_cast<std::ptrdiff_t>(end))});
    }
    writing.tables.push_back({&table, begin, end, fresh});
    table.being_written = true;
    table.fresh = false;
    cache_->mark_clean(table);
  }
  for (const auto index : dirty_l1_) {
    writing.pieces.push_back(
        {header_.l1_offset + std::uint64_t{index} * 8, {__builtin_bswap64(l1_[index])}});
  }
  writing.l1.swap(dirty_l1_);
  writing.freed.swap(freed_);
  return 0;
}

int Image::write_pieces(const Writing& writing) {
  for (const Piece& piece : writing.pieces) {
    const auto bytes = std::as_bytes(std::span(piece.entries));
    if (const int error = storage_.write(piece.offset, bytes); error != 0) return error;
  }
  return 0;
}

// After an error all is as dirty as before.
void Image::finish(Writing& writing, int error) {
  std::lock_guard lock(mutex_);
  for (const auto& dirty : writing.tables) {
    dirty.table->being_written = false;
    if (error == 0) continue;
    dirty.table->fresh = dirty.table->fresh || dirty.fresh;
    cache_->mark_dirty(*dirty.table, dirty.begin, dirty.end);
  }
  if (error == 0) {
    unmapped_.insert(unmapped_.end(), writing.freed.begin(), writing.freed.end());
    return;
  }
  dirty_l1_.insert(dirty_l1_.end(), writing.l1.begin(), writing.l1.end());
  freed_.insert(freed_.end(), writing.freed.begin(), writing.freed.end());
}

// Whoever holds flush_mutex_ is the only one to lower refcounts, so that a cluster whose count is
// one stays unallocated while its space is given back without the lock.
void Image::reclaim() {
  if (unmapped_.empty()) return;
  std::vector<std::uint64_t> ready, last;
  {
    std::lock_guard lock(mutex_);
    grace_.advance();
    grace_.advance();
    const auto waits = [&](const Freed& freed) { return freed.epoch + 2 > grace_.epoch(); };
    const auto rest = std::partition(unmapped_.begin(), unmapped_.end(), waits);
    for (auto it = rest; it != unmapped_.end(); ++it) ready.push_back(it->cluster);
    unmapped_.erase(rest, unmapped_.end());
    std::ranges::sort(ready);
    for (std::size_t i = 0; i < ready.size(); ++i) {
      const bool twice = i + 1 < ready.size() && ready[i + 1] == ready[i];
      if (twice || refcounts_->is_metadata(ready[i])) continue;
      if (refcounts_->get(ready[i]).value_or(0) == 1) last.push_back(ready[i]);
    }
  }
  for (std::size_t i = 0; i < last.size();) {
    std::size_t count = 1;
    while (i + count < last.size() && last[i + count] == last[i] + count) ++count;
    // The space is given back or not; the cluster is free all the same.
    (void)storage_.punch(last[i] << header_.cluster_bits, count << header_.cluster_bits);
    i += count;
  }
  std::lock_guard lock(mutex_);
  for (const auto cluster : ready) {
    (void)refcounts_->decrement(cluster);  // a count that was wrong before: the cluster leaks
  }
  if (!ready.empty()) changed();
}

}  // namespace vmm::disk::qcow2
