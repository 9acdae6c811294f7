// Disk: what a block device stores its sectors in, and Channel, one thread's way to it.
//
//   auto disk = TRY(open_disk(config));
//   auto channel = disk->open_channel(loop, [&] { ... something completed: reap ... });
//   channel->submit({.operation = Operation::read, .tag = 7, .offset = 0, .buffers = buffers});
//   channel->commit();                           // once a batch
//   for (const auto& done : channel->reap()) ... // {tag 7, error 0}
//
// A Disk may be used by any thread. A Channel belongs to the thread that runs its loop; several
// channels of one disk work side by side.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/sparse_file.h"
#include "src/base/unique_fd.h"
#include "src/disk/disk_config.h"

namespace vmm::disk {

enum class Operation : std::uint8_t {
  read,
  write,
  flush,         // what completed or was submitted before is on stable storage when it completes
  discard,       // the content of the range is given up; a hint
  write_zeroes,  // the range reads as zeroes
};

struct Request {
  Operation operation = Operation::read;
  bool may_unmap = false;    // write_zeroes: the space may be given back to the host
  bool durable = false;      // write: on stable storage when it completes
  bool more = false;         // a hint: the next request follows at once
  std::uint32_t tag = 0;     // comes back in the completion; the caller's
  std::uint64_t offset = 0;  // bytes; with the length inside of the disk, multiples of its block
  std::uint64_t length = 0;  // bytes, the sum of the buffers for read and write
  // Read and write: at most 1024 buffers, which stay as they are until the completion.
  std::span<const iovec> buffers;
};

struct Completion {
  std::uint32_t tag = 0;
  int error = 0;  // errno, or 0
};

class Channel {
 public:
  // Waits for what is in flight.
  virtual ~Channel() = default;

  // Takes a request; it may complete at once, the completion is for reap() all the same.
  virtual void submit(const Request& request) = 0;
  // Hands what was submitted to the host.
  virtual void commit() = 0;
  // What completed since the last call; valid until the next one. Never blocks.
  virtual std::span<const Completion> reap() = 0;
  // Blocks until reap() has something; returns at once when nothing is in flight.
  virtual void wait() = 0;
};

struct DiskInfo {
  std::uint64_t size = 0;                           // bytes, a multiple of `block_size`
  std::uint32_t block_size = kSectorSize;           // what offsets and lengths are multiples of
  std::uint32_t physical_block_size = kSectorSize;  // below it, a write may cost a read
  bool read_only = false;
  bool can_discard = false;
  bool can_write_zeroes = false;
};

class Disk {
 public:
  virtual ~Disk() = default;

  virtual const DiskInfo& info() const = 0;
  // What to call it in messages.
  virtual const std::string& name() const = 0;
  // `ready` runs on the loop's thread when reap() may have something new. Call it on that thread;
  // the channel must end before the loop does, on the same thread.
  virtual std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) = 0;
  // All completed writes are on stable storage when it returns. Blocks.
  virtual Result<void> sync() = 0;
  // As sync(), and the file is as it will be when the disk is closed: unless something is written
  // first, closing it changes nothing. While nothing is in flight.
  virtual Result<void> settle() { return sync(); }
  // Makes it larger; what is new reads as zeroes. While no channel is open. On an error it is as it
  // was. Blocks: what was written before reaches stable storage with it.
  virtual Result<void> grow(std::uint64_t /*size*/) {
    return fail("disk '{}' is of a kind that does not grow", name());
  }
  // Reads [offset, offset + target's size) on the calling thread.
  virtual Result<void> read(std::uint64_t offset, std::span<std::byte> target) = 0;
  // The first part at or behind `offset`, which is inside of the disk, that may hold other bytes
  // than zeroes; its length is 0 when there is none. A disk that does not know says that all may.
  virtual Result<DataRange> next_data(std::uint64_t offset) {
    return DataRange{offset, info().size - offset};
  }
  // Bytes that it copied so far beside those of the requests: a write to a part of a copy-on-write
  // disk's unit copies the rest. Any thread.
  virtual std::uint64_t copied_bytes() const { return 0; }
  // A descriptor of the regular file whose bytes are the disk's, one for one; -1: there is none.
  virtual int plain_file() const { return -1; }
};

// Makes the layer that a scratch disk writes to, and has `config` name it: a qcow2 image at
// `config.layer`, or one beside the disk without a name, which is there for as long as the
// descriptor, however often the disk is opened.
Result<UniqueFd> open_scratch(DiskConfig& config);

// Opens the disk that `config` names; a scratch disk with a new layer, which ends with the disk.
// The errors are sentences for the person who named it.
Result<std::unique_ptr<Disk>> open_disk(const DiskConfig& config);

}  // namespace vmm::disk
