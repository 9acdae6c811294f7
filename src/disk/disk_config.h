// DiskConfig: what a person says about a disk, as plain typed fields.
//
//   const auto disk = TRY(parse_disk_config("root.img,ro,queues=2"));
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/spec/fields.h"

namespace vmm::disk {

inline constexpr std::uint32_t kSectorSize = 512;
// Of a disk, in bytes: what is kept for each piece of it has a bound.
inline constexpr std::uint64_t kMaxDiskSize = 2ull << 50;

// How transfers reach the host's kernel.
enum class IoEngine : std::uint8_t {
  automatic,  // what was measured to be quickest for this file, see file_channel.h
  uring,      // io_uring for every transfer; refused where the host forbids it
  threads,    // blocking calls on a pool of threads
};

// What the bytes of a file are.
enum class ImageFormat : std::uint8_t {
  automatic,  // qcow2 by its first bytes, raw otherwise
  raw,
  qcow2,
  vmdk,  // a descriptor of flat files, read-only; never found by itself, as it names other files
};

// Zero means unlimited. A burst is what may pass at once after a pause; zero stands for a tenth of
// a second's worth.
struct RateLimits {
  std::uint64_t bytes_per_second = 0;
  std::uint64_t burst_bytes = 0;
  std::uint64_t operations_per_second = 0;
  std::uint64_t burst_operations = 0;
  friend bool operator==(const RateLimits&, const RateLimits&) = default;
};

struct DiskConfig {
  std::string id;    // "blk1": which disk of a restored machine this is; empty: it goes by position
  std::string path;  // empty: of a slot, there is no disk in it
  // Not 0: a slot, which disks of at most so many bytes are attached to and detached from while the
  // guest runs.
  std::uint64_t slot_size = 0;
  std::string label;  // what messages call it; empty: its path
  ImageFormat format = ImageFormat::automatic;
  bool read_only = false;
  bool may_write = false;  // said, where a stranger's snapshot would decide it
  bool direct = false;     // O_DIRECT: past the host's page cache
  bool scratch = false;    // what is written goes to a layer of its own (open_scratch())
  std::string layer;       // where that is made, and stays; empty: it has no name
  std::string serial;      // up to 20 bytes, what the guest sees as /sys/block/vda/serial
  IoEngine io = IoEngine::automatic;
  RateLimits limits;
  std::uint16_t queues = 1;
  std::uint16_t queue_size = 256;  // entries of each queue, a power of two from 4 to 1024
  friend bool operator==(const DiskConfig&, const DiskConfig&) = default;

  bool is_slot() const { return slot_size != 0; }
  bool is_empty() const { return is_slot() && path.empty(); }
};

inline constexpr std::size_t kMaxSerial = 20;
inline constexpr std::uint16_t kMaxQueues = 64;

// Label and layer are no keys: they say how a restored machine uses its snapshot's files.
spec::Fields fields_of(DiskConfig& disk);
// PATH[,key=value...]
Result<DiskConfig> parse_disk_config(std::string_view words);

// The slot with `given` in it: of that, only the keys of the host, `format`, `ro` and `rw` may be
// said.
Result<DiskConfig> fill_slot(const DiskConfig& slot, const DiskConfig& given);
// The slot with nothing in it.
DiskConfig empty_slot(const DiskConfig& slot);

}  // namespace vmm::disk
