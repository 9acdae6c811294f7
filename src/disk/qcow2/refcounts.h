// Refcounts: how often each cluster of the file is used, and which ones are free. Blocks of
// refcounts are kept in a bounded cache; what is changed reaches the file by write_back().
//
// Not for several threads: Image's lock is held. Functions return 0 or an errno; EIO stands for
// what the image says that cannot be.
#pragma once

#include <expected>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "src/disk/qcow2/cluster_set.h"
#include "src/disk/qcow2/header.h"
#include "src/disk/qcow2/storage.h"

namespace vmm::disk::qcow2 {

// Clusters that lie side by side in the file.
struct Run {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  bool fresh = false;  // never written: they read as zeroes
};

class Refcounts {
 public:
  Refcounts(Storage& storage, const Header& header);

  int read_table();
  // Notes the clusters of the header, the tables and the refcount blocks, which are never handed
  // out or freed, whatever their refcounts say. Returns the first one that two of these claim. The
  // L2 tables' clusters are `l2_tables`.
  std::optional<std::uint64_t> find_metadata(const Header& header,
                                             std::vector<std::uint64_t> l2_tables);
  void add_metadata(std::uint64_t cluster) { metadata_.add(cluster); }
  void remove_metadata(std::uint64_t cluster) { metadata_.remove(cluster); }
  bool is_metadata(std::uint64_t cluster) const { return metadata_.contains(cluster); }
  // How many clusters from `first` on, at most `count`, come before one with metadata.
  std::uint64_t data_from(std::uint64_t first, std::uint64_t count) const {
    return metadata_.free_from(first, count);
  }

  std::expected<std::uint64_t, int> get(std::uint64_t cluster);
  // The block of `cluster` must exist.
  int set(std::uint64_t cluster, std::uint64_t value);
  int decrement(std::uint64_t cluster);
  // For a repair, which trusts no refcount: makes the block that is missing behind the file's end.
  int force(std::uint64_t cluster, std::uint64_t value);
  // Whether force() has put a block there.
  bool is_new(std::uint64_t cluster) const { return forced_ != 0 && cluster >= forced_; }
  // Takes 1 to `most` free clusters side by side.
  std::expected<Run, int> allocate(std::uint64_t most);
  // Takes `count` clusters side by side, behind the file's end; the first one.
  std::expected<std::uint64_t, int> append(std::uint64_t count);

  // Blocks first, then the table that points to them, with a sync between.
  int write_back();
  bool is_dirty() const { return dirty_blocks_ > 0 || !dirty_entries_.empty() || move_; }
  // Enough of them that a flush is due.
  bool is_full_of_dirt() const { return dirty_blocks_ > capacity_ / 2; }

  const std::vector<std::uint64_t>& table() const { return table_; }

 private:
  struct Block {
    std::uint64_t index = 0;
    std::vector<std::byte> bytes;
    bool dirty = false;
  };
  using BlockList = std::list<Block>;

  std::expected<Block*, int> find_block(std::uint64_t index);
  Block& insert_block(std::uint64_t index, std::vector<std::byte> bytes);
  int evict();
  int write_block(Block& block);
  int create_block(std::uint64_t index, std::uint64_t cluster);
  void add_block(std::uint64_t index, std::uint64_t cluster);
  // Makes blocks for [*first, *first + count), whose start moves behind those it had to place.
  int provide_blocks(std::uint64_t& first, std::uint64_t count);
  int grow_table(std::uint64_t cluster);
  int take(const Run& run);
  std::expected<std::uint64_t, int> find_free();
  std::expected<bool, int> is_free(std::uint64_t cluster);
  bool has_block(std::uint64_t cluster) const;
  std::uint64_t index_of(std::uint64_t cluster) const { return cluster / per_block_; }
  int write_table_move();

  Storage& storage_;
  const std::uint32_t cluster_bits_;
  const std::uint32_t order_;
  const std::uint64_t per_block_;
  const std::uint64_t max_;
  const std::size_t capacity_;  // blocks

  std::uint64_t table_offset_;
  std::uint64_t table_clusters_;
  std::vector<std::uint64_t> table_;          // offsets of blocks, 0: none
  std::vector<std::uint64_t> dirty_entries_;  // indices of the table
  // The table has grown: where the old one lies, until write_back().
  std::optional<Run> move_;

  BlockList blocks_;  // the one used last comes first
  std::unordered_map<std::uint64_t, BlockList::iterator> cached_;
  std::size_t dirty_blocks_ = 0;

  ClusterSet metadata_;
  std::uint64_t hint_ = 0;    // no cluster below is free
  std::uint64_t forced_ = 0;  // where force() began to put blocks
  std::uint64_t never_used_;  // clusters from here on are fresh
};

}  // namespace vmm::disk::qcow2
