// Storage: the file that an image lies in, as the metadata sees it: any offset and length, zeroes
// behind its end, grown ahead of what is written. Any thread; 0 or an errno where int is returned.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>

#include "src/disk/raw_file.h"

namespace vmm::disk::qcow2 {

class Storage {
 public:
  explicit Storage(std::unique_ptr<RawFile> file);
  ~Storage();  // trims

  RawFile& file() { return *file_; }
  const RawFile& file() const { return *file_; }
  std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  // From here on the file has never been written and reads as zeroes, once grown.
  std::uint64_t first_size() const { return first_size_; }

  int read(std::uint64_t offset, std::span<std::byte> target) const;
  int write(std::uint64_t offset, std::span<const std::byte> source);
  // Makes room up to `end`; rounds up, so that it is rare.
  int grow(std::uint64_t end);
  // Cuts off what grow() took too much.
  void trim();
  int punch(std::uint64_t offset, std::uint64_t length);
  // All that was written is on stable storage when it returns.
  int sync();

 private:
  int read_some(std::uint64_t offset, std::span<std::byte> target) const;
  int write_all(std::uint64_t offset, std::span<const std::byte> source);

  std::unique_ptr<RawFile> file_;
  std::uint64_t first_size_;
  std::atomic<std::uint64_t> size_;
  std::mutex mutex_;  // guards used_ and growing
  std::uint64_t used_;
};

}  // namespace vmm::disk::qcow2
