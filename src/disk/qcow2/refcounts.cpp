#include "src/disk/qcow2/refcounts.h"

#include <algorithm>

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kCacheBytes = 4u << 20;
// Used clusters behind the end of the file that are passed over before the image counts as damaged.
constexpr std::uint64_t kMaxBehindEnd = 1u << 16;

std::uint64_t read_count(std::span<const std::byte> block, std::uint64_t index,
                         std::uint32_t order) {
  if (order < 3) {
    const auto byte = std::to_integer<std::uint32_t>(block[(index << order) / 8]);
    const auto shift = static_cast<std::uint32_t>((index << order) % 8);
    return (byte >> shift) & ((1u << (1u << order)) - 1);
  }
  const std::byte* at = &block[index << (order - 3)];
  if (order == 3) return std::to_integer<std::uint64_t>(*at);
  if (order == 4) return load<std::uint16_t>(at);
  if (order == 5) return load<std::uint32_t>(at);
  return load<std::uint64_t>(at);
}

void write_count(std::span<std::byte> block, std::uint64_t index, std::uint32_t order,
                 std::uint64_t value) {
  if (order < 3) {
    std::byte& byte = block[(index << order) / 8];
    const auto shift = static_cast<std::uint32_t>((index << order) % 8);
    const std::uint32_t mask = ((1u << (1u << order)) - 1) << shift;
    const auto kept = std::to_integer<std::uint32_t>(byte) & ~mask;
    byte = static_cast<std::byte>(kept | (static_cast<std::uint32_t>(value) << shift));
    return;
  }
  std::byte* at = &block[index << (order - 3)];
  if (order == 3) *at = static_cast<std::byte>(value);
  if (order == 4) store(at, static_cast<std::uint16_t>(value));
  if (order == 5) store(at, static_cast<std::uint32_t>(value));
  if (order == 6) store(at, value);
}

}  // namespace

Refcounts::Refcounts(Storage& storage, const Header& header)
    : storage_(storage),
      cluster_bits_(header.cluster_bits),
      order_(header.refcount_order),
      per_block_(header.refcounts_per_block()),
      max_(header.max_refcount()),
      capacity_(std::max<std::size_t>(4, kCacheBytes >> header.cluster_bits)),
      table_offset_(header.refcount_table_offset),
      table_clusters_(header.refcount_table_clusters),
      never_used_(storage.first_size() == UINT64_MAX
                      ? UINT64_MAX
                      : (storage.first_size() >> cluster_bits_) + 1) {}

int Refcounts::read_table() {
  std::vector<std::byte> bytes(table_clusters_ << cluster_bits_);
  if (const int error = storage_.read(table_offset_, bytes); error != 0) return error;
  table_.resize(bytes.size() / 8);
  for (std::size_t i = 0; i < table_.size(); ++i) {
    table_[i] = load<std::uint64_t>(&bytes[i * 8]) & ~std::uint64_t{511};
  }
  return 0;
}

std::optional<std::uint64_t> Refcounts::find_metadata(const Header& header,
                                                      std::vector<std::uint64_t> l2_tables) {
  std::vector<std::uint64_t>& clusters = l2_tables;
  const auto add = [&](std::uint64_t offset, std::uint64_t bytes) {
    const std::uint64_t end = round_up(offset + bytes, header.cluster_size()) >> cluster_bits_;
    for (std::uint64_t c = offset >> cluster_bits_; c < end; ++c) clusters.push_back(c);
  };
  add(0, header.cluster_size());
  add(header.l1_offset, std::uint64_t{header.l1_entries} * 8);
  add(table_offset_, table_clusters_ << cluster_bits_);
  for (const auto block : table_) {
    // One that does not begin a cluster is never used.
    if (block != 0 && block % header.cluster_size() == 0)
      clusters.push_back(block >> cluster_bits_);
  }
  const auto twice = metadata_.add_all(clusters);
  if (twice.empty()) return std::nullopt;
  return twice.front();
}

bool Refcounts::has_block(std::uint64_t cluster) const {
  return index_of(cluster) < table_.size() && table_[index_of(cluster)] != 0;
}

// ---- the cache of blocks

std::expected<Refcounts::Block*, int> Refcounts::find_block(std::uint64_t index) {
  if (const auto found = cached_.find(index); found != cached_.end()) {
    blocks_.splice(blocks_.begin(), blocks_, found->second);
    return &*found->second;
  }
  const std::uint64_t offset = table_[index];
  if ((offset & ((1ull << cluster_bits_) - 1)) != 0 || offset >= storage_.size()) {
    return std::unexpected(EIO);
  }
  std::vector<std::byte> bytes(1ull << cluster_bits_);
  if (const int error = storage_.read(offset, bytes); error != 0) return std::unexpected(error);
  if (const int error = evict(); error != 0) return std::unexpected(error);
  return &insert_block(index, std::move(bytes));
}

Refcounts::Block& Refcounts::insert_block(std::uint64_t index, std::vector<std::byte> bytes) {
  blocks_.push_front({index, std::move(bytes)});
  cached_[index] = blocks_.begin();
  return blocks_.front();
}

// A block may reach the file at any time: increments before what they count is used, decrements
// only after it no longer is (Image::reclaim).
int Refcounts::evict() {
  while (blocks_.size() >= capacity_) {
    Block& last = blocks_.back();
    if (last.dirty) {
      if (const int error = write_block(last); error != 0) return error;
    }
    cached_.erase(last.index);
    blocks_.pop_back();
  }
  return 0;
}

int Refcounts::write_block(Block& block) {
  if (const int error = storage_.write(table_[block.index], block.bytes); error != 0) return error;
  block.dirty = false;
  --dirty_blocks_;
  return 0;
}

std::expected<std::uint64_t, int> Refcounts::get(std::uint64_t cluster) {
  if (!has_block(cluster)) return 0;
  const auto block = find_block(index_of(cluster));
  if (!block) return std::unexpected(block.error());
  return read_count((*block)->bytes, cluster % per_block_, order_);
}

int Refcounts::set(std::uint64_t cluster, std::uint64_t value) {
  if (!has_block(cluster) || value > max_) return EIO;
  const auto block = find_block(index_of(cluster));
  if (!block) return block.error();
  write_count((*block)->bytes, cluster % per_block_, order_, value);
  if (!std::exchange((*block)->dirty, true)) ++dirty_blocks_;
  if (value == 0) hint_ = std::min(hint_, cluster);
  return 0;
}

int Refcounts::decrement(std::uint64_t cluster) {
  const auto count = get(cluster);
  if (!count) return count.error();
  if (*count == 0 || is_metadata(cluster)) return EIO;  // the image counted wrong
  return set(cluster, *count - 1);
}

// ---- allocation

std::expected<bool, int> Refcounts::is_free(std::uint64_t cluster) {
  const auto count = get(cluster);
  if (!count) return std::unexpected(count.error());
  return *count == 0;
}

std::expected<std::uint64_t, int> Refcounts::find_free() {
  std::uint64_t behind_end = 0;
  for (std::uint64_t cluster = hint_;; ++cluster) {
    if ((cluster << cluster_bits_) >= storage_.size() && ++behind_end > kMaxBehindEnd) {
      return std::unexpected(EIO);
    }
    const auto free = is_free(cluster);
    if (!free) return std::unexpected(free.error());
    if (*free) return cluster;
  }
}

int Refcounts::create_block(std::uint64_t index, std::uint64_t cluster) {
  if (is_metadata(cluster)) return EIO;
  if (const int error = storage_.grow((cluster + 1) << cluster_bits_); error != 0) return error;
  if (const int error = evict(); error != 0) return error;
  // Counted before there is a block that lies in it: what fails later leaks a cluster at most.
  if (index_of(cluster) != index) {
    if (const int error = take({cluster, 1}); error != 0) return error;
    add_block(index, cluster);
  } else {
    add_block(index, cluster);
    // In the block itself, which is in the cache.
    if (const int error = take({cluster, 1}); error != 0) return error;
  }
  metadata_.add(cluster);
  return 0;
}

void Refcounts::add_block(std::uint64_t index, std::uint64_t cluster) {
  Block& block = insert_block(index, std::vector<std::byte>(1ull << cluster_bits_));
  block.dirty = true;
  ++dirty_blocks_;
  table_[index] = cluster << cluster_bits_;
  dirty_entries_.push_back(index);
}

int Refcounts::take(const Run& run) {
  for (std::uint64_t i = 0; i < run.count; ++i) {
    if (is_metadata(run.first + i)) return EIO;  // in use, though its refcount says it is not
  }
  for (std::uint64_t i = 0; i < run.count; ++i) {
    if (const int error = set(run.first + i, 1); error != 0) return error;
  }
  if (never_used_ != UINT64_MAX) never_used_ = std::max(never_used_, run.first + run.count);
  return 0;
}

int Refcounts::provide_blocks(std::uint64_t& first, std::uint64_t count) {
  for (;;) {
    if (index_of(first + count) >= table_.size()) {
      if (const int error = grow_table(first); error != 0) return error;
      // The new table may lie here now.
      for (auto free = is_free(first);; free = is_free(++first)) {
        if (!free) return free.error();
        if (*free) break;
      }
      continue;
    }
    std::uint64_t missing = index_of(first);
    const std::uint64_t last = index_of(first + count - 1);
    while (missing <= last && table_[missing] != 0) ++missing;
    if (missing > last) return 0;
    // The block lies in the first cluster, which it counts itself or which has a block already.
    if (const int error = create_block(missing, first); error != 0) return error;
    ++first;
  }
}

// The new table lies behind all that can be counted, after the blocks that count it and themselves.
// Nothing in memory changes before all that can fail is done.
int Refcounts::grow_table(std::uint64_t cluster) {
  const std::uint64_t entries_per_cluster = 1ull << (cluster_bits_ - 3);
  const std::uint64_t needed = index_of(cluster) + table_.size() / 2 + 64;
  const std::uint64_t clusters = needed / entries_per_cluster + 1;
  if ((clusters << cluster_bits_) > kMaxRefcountTableBytes) return EFBIG;
  const std::uint64_t first = std::max(cluster, table_.size() * per_block_);
  std::uint64_t blocks = 1;
  while (index_of(first + blocks + clusters - 1) - index_of(first) >= blocks) ++blocks;
  const std::uint64_t table = first + blocks;
  const std::uint64_t end = table + clusters;
  if (index_of(end) + 2 >= clusters * entries_per_cluster) return EFBIG;
  if (metadata_.free_from(first, end - first) != end - first) return EIO;
  if (const int error = storage_.grow(end << cluster_bits_); error != 0) return error;

  table_.resize(clusters * entries_per_cluster);
  // The cache takes them, full as it may be: all of them are there when they are counted.
  for (std::uint64_t i = 0; i < blocks; ++i) add_block(index_of(first) + i, first + i);
  for (std::uint64_t c = first; c < end; ++c) {
    const auto block = cached_.at(index_of(c));
    write_count(block->bytes, c % per_block_, order_, 1);
    metadata_.add(c);
  }
  if (never_used_ != UINT64_MAX) never_used_ = std::max(never_used_, end);
  const Run old{table_offset_ >> cluster_bits_, table_clusters_};
  table_offset_ = table << cluster_bits_;
  table_clusters_ = clusters;
  if (!move_) {
    move_ = old;
    return 0;
  }
  // It grew twice, and the file never heard of the first time.
  for (std::uint64_t c = old.first; c < old.first + old.count; ++c) {
    metadata_.remove(c);
    (void)set(c, 0);  // a failure leaks the cluster
  }
  return 0;
}

std::expected<Run, int> Refcounts::allocate(std::uint64_t most) {
  const auto free = find_free();
  if (!free) return std::unexpected(free.error());
  std::uint64_t first = *free;
  if (const int error = provide_blocks(first, 1); error != 0) return std::unexpected(error);
  const auto start = is_free(first);
  if (!start) return std::unexpected(start.error());
  if (!*start) {  // blocks were placed, and something lies behind them
    hint_ = first;
    return allocate(most);
  }
  Run run{first, 1, first >= never_used_};
  while (run.count < most && has_block(first + run.count) &&
         index_of(first + run.count) == index_of(first)) {
    const auto next = is_free(first + run.count);
    if (!next) return std::unexpected(next.error());
    if (!*next) break;
    ++run.count;
  }
  if (const int error = take(run); error != 0) return std::unexpected(error);
  hint_ = std::max(hint_, first + run.count);
  if (const int error = storage_.grow((first + run.count) << cluster_bits_); error != 0) {
    for (std::uint64_t i = 0; i < run.count; ++i)
      (void)set(run.first + i, 0);  // undone as far as can be
    return std::unexpected(error);
  }
  return run;
}

std::expected<std::uint64_t, int> Refcounts::append(std::uint64_t count) {
  const std::uint64_t end = round_up(storage_.size(), 1ull << cluster_bits_) >> cluster_bits_;
  std::uint64_t first = std::max(end, never_used_ == UINT64_MAX ? 0 : never_used_);
  if (const int error = provide_blocks(first, count); error != 0) return std::unexpected(error);
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto free = is_free(first + i);
    if (!free || !*free) return std::unexpected(free ? EIO : free.error());
  }
  if (const int error = storage_.grow((first + count) << cluster_bits_); error != 0) {
    return std::unexpected(error);
  }
  if (const int error = take({first, count}); error != 0) return std::unexpected(error);
  return first;
}

int Refcounts::force(std::uint64_t cluster, std::uint64_t value) {
  if (has_block(cluster)) return set(cluster, value);
  if (forced_ == 0) forced_ = round_up(storage_.size(), 1ull << cluster_bits_) >> cluster_bits_;
  std::uint64_t place = std::max(forced_, never_used_ == UINT64_MAX ? 0 : never_used_);
  if (const int error = provide_blocks(place, 1); error != 0) return error;
  if (!has_block(cluster)) {
    if (const int error = create_block(index_of(cluster), place); error != 0) return error;
  }
  if (const int error = storage_.grow(never_used_ << cluster_bits_); error != 0) return error;
  return set(cluster, value);
}

// ---- to the file

int Refcounts::write_back() {
  for (Block& block : blocks_) {
    if (!block.dirty) continue;
    if (const int error = write_block(block); error != 0) return error;
  }
  if (dirty_entries_.empty() && !move_) return 0;
  // No entry may point to a block that is not there after a loss of power.
  if (const int error = storage_.sync(); error != 0) return error;
  if (move_) return write_table_move();
  for (const auto index : dirty_entries_) {
    std::byte entry[8];
    store(entry, table_[index]);
    if (const int error = storage_.write(table_offset_ + index * 8, entry); error != 0) {
      return error;
    }
  }
  dirty_entries_.clear();
  return 0;
}

int Refcounts::write_table_move() {
  std::vector<std::byte> bytes(table_clusters_ << cluster_bits_);
  for (std::size_t i = 0; i < table_.size(); ++i) store(&bytes[i * 8], table_[i]);
  if (const int error = storage_.write(table_offset_, bytes); error != 0) return error;
  if (const int error = storage_.sync(); error != 0) return error;
  std::byte fields[12];
  store(fields, table_offset_);
  store(fields + 8, static_cast<std::uint32_t>(table_clusters_));
  if (const int error = storage_.write(kRefcountTableField, fields); error != 0) return error;
  if (const int error = storage_.sync(); error != 0) return error;
  dirty_entries_.clear();
  const Run old = move_.value_or(Run{});
  move_.reset();
  for (std::uint64_t c = old.first; c < old.first + old.count; ++c) {
    metadata_.remove(c);
    if (const int error = decrement(c); error != 0) return error;
  }
  return 0;
}

}  // namespace vmm::disk::qcow2
