// Image: one qcow2 file: where each cluster of the disk lies, and how that changes.
//
//   map()      what is in a range: data at an offset of the file, zeroes, nothing (the backing file
//              has it), or a compressed cluster
//   allocate() then write the data, then link(): the order that no crash can make a leak of others'
//              data of. give_back() instead of link() when the write failed
//   unlink()   the range reads as zeroes, or as nothing
//   flush()    all of it on stable storage
//
// What the file sees of a change, and when (flush(), in stages with fdatasync between):
//   1. the data, the refcounts of what was allocated, new L2 tables (nothing points to them)
//   2. L2 entries that point to 1., then L1 entries that point to new tables
//   3. reclaim(): the refcounts of what 2. no longer points to go down, and its space to the host
// A crash between two of these leaks clusters and does nothing worse.
//
// Any thread. Locks, in this order: flush_mutex_ (one flush at a time), mutex_ (all tables; held
// for look-ups, for reading a table that is not cached, never while data moves).
#pragma once

#include <atomic>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "src/disk/qcow2/grace.h"
#include "src/disk/qcow2/header.h"
#include "src/disk/qcow2/l2_cache.h"
#include "src/disk/qcow2/refcounts.h"
#include "src/disk/qcow2/storage.h"

namespace vmm::disk::qcow2 {

struct Extent {
  enum class Kind : std::uint8_t { unallocated, zero, data, compressed };
  Kind kind = Kind::unallocated;
  bool writable = false;          // data: may be overwritten where it lies
  std::uint64_t host = 0;         // data, compressed: offset in the file
  std::uint64_t length = 0;       // bytes of the disk
  std::uint64_t packed_size = 0;  // compressed: bytes at `host`, at most
};

// Errors are sentences about the file.
Result<Header> read_header(const Storage& storage);

// Takes an entry of an L2 table apart; `length` is not set.
Extent decode_entry(const Header& header, std::uint64_t entry);

class Image {
 public:
  enum class Access : std::uint8_t { read, write };
  static Result<std::unique_ptr<Image>> open(std::unique_ptr<RawFile> file, Access access);
  // Closes it well; an error there is logged.
  ~Image();
  // The file goes away: nothing is left to be flushed.
  void abandon() { abandoned_ = true; }

  const Header& header() const { return header_; }
  const std::string& name() const { return storage_.file().name(); }
  Storage& storage() { return storage_; }

  // Within the disk. The extent is as long as what lies together, at most `length`. With `token`,
  // enter() first, under the same lock; leave() is due whatever comes back.
  std::expected<Extent, int> map(std::uint64_t offset, std::uint64_t length,
                                 Grace::Token* token = nullptr);

  // What is looked up from now on stays what it is until leave().
  Grace::Token enter();
  void leave(Grace::Token token) { grace_.leave(token); }

  std::expected<Run, int> allocate(std::uint64_t most);
  void give_back(const Run& run);
  // Clusters of the disk from `first` on, which one L2 table has all.
  int link(std::uint64_t first, const Run& run);
  // Compressed data at an offset of the file, whose clusters are counted once for each entry.
  int link_compressed(std::uint64_t cluster, std::uint64_t host, std::uint64_t size);
  enum class Leaves : std::uint8_t { nothing, zeroes };
  int unlink(std::uint64_t first, std::uint64_t count, Leaves leaves);

  // See Chain::set_size().
  void set_size(std::uint64_t size) { header_.size = size; }
  int write_size();
  // A larger copy of the L1 table, which the header then names. While nothing is in flight.
  int grow_l1(std::uint32_t entries);

  int flush();
  // Flushes, and leaves nothing for a later flush to do. While nothing is in flight.
  int settle();
  // Whether flush() would only have to sync the file.
  bool is_clean() const {
    return clean_.load(std::memory_order_acquire) == changes_.load(std::memory_order_acquire);
  }
  // Called by who changes things, before: flushes when that is due to keep caches bounded.
  int flush_when_due();

 private:
  struct Freed {
    std::uint64_t cluster;
    std::uint64_t epoch;
  };
  struct Piece;
  struct Writing;

  Image(std::unique_ptr<RawFile> file, Access access);
  Result<void> load_tables();
  Result<void> prepare_writing();
  std::expected<L2Table*, int> load_table(std::uint32_t l1_index);
  std::expected<L2Table*, int> writable_table(std::uint32_t l1_index);
  Extent classify(std::uint64_t entry) const;
  void keep_from_metadata(Extent& extent) const;
  void release(std::uint64_t entry);
  int collect(Writing& writing);
  int write_pieces(const Writing& writing);
  void finish(Writing& writing, int error);
  void reclaim();
  void changed() { changes_.fetch_add(1, std::memory_order_release); }

  Storage storage_;
  const Access access_;
  bool abandoned_ = false;
  Header header_;

  std::mutex flush_mutex_;
  std::vector<Freed> unmapped_;  // by flush_mutex_: durably so, not reclaimed yet

  std::mutex mutex_;  // guards all below
  std::vector<std::uint64_t> l1_;
  std::vector<std::uint32_t> dirty_l1_;
  std::unique_ptr<L2Cache> cache_;
  std::unique_ptr<Refcounts> refcounts_;
  std::vector<Freed> freed_;  // since the last flush
  Grace grace_;

  std::atomic<std::uint64_t> changes_{0};
  std::atomic<std::uint64_t> clean_{0};
};

}  // namespace vmm::disk::qcow2
