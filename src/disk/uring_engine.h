// UringEngine: reads, writes and flushes by io_uring, one ring a channel. What is submitted goes to
// the kernel in one call for a batch, and what the page cache holds is complete when that returns.
#pragma once

#include <liburing.h>

#include <vector>

#include "src/disk/raw_file.h"

namespace vmm::disk {

class UringEngine {
 public:
  // Error: the host's kernel has no io_uring, or forbids it.
  static Result<std::unique_ptr<UringEngine>> create(RawFile& file);
  // Nothing may be in flight.
  ~UringEngine();

  void submit(const Request& request);
  void commit();
  void reap(std::vector<Completion>& completions);
  int fd() const { return ring_.ring_fd; }

 private:
  struct Transfer {
    Request request;            // what is left of it
    std::uint64_t covered = 0;  // flush: RawFile::written() when it began
    std::vector<iovec> rest;    // its buffers, once a short transfer moved their start
  };

  explicit UringEngine(RawFile& file) : file_(file) {}
  Result<void> start();
  void prepare(std::size_t slot);
  bool finish(std::size_t slot, int result, std::vector<Completion>& completions);

  RawFile& file_;
  io_uring ring_{};
  bool started_ = false;
  std::vector<Transfer> transfers_;
  std::vector<std::size_t> free_;
  std::vector<Completion> failed_;
};

}  // namespace vmm::disk
