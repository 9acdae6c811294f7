// Qcow2Channel: a Channel to a Chain.
//
//  - What lies in clusters that are there already goes to a FileChannel of the layer's file, piece
//    by piece, as a raw disk's transfers do; zeroes are filled in at once.
//  - What is to be unpacked, allocated, copied, or unmapped is carried out by Chain's blocking
//    operations on a few threads.
//  - A flush waits for what was submitted before it; when no metadata changed, it is one of the
//    file alone.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "src/base/log.h"
#include "src/disk/file_channel.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/thread_engine.h"

namespace vmm::disk::qcow2 {

class Qcow2Channel final : public Channel {
 public:
  Qcow2Channel(Chain& chain, IoEngine io, EventLoop& loop, std::function<void()> ready);
  ~Qcow2Channel() override;

  void submit(const Request& request) override;
  void commit() override;
  std::span<const Completion> reap() override;
  void wait() override;

 private:
  // A request that is not complete; its index is the tag of its pieces.
  struct Slot {
    std::uint32_t tag = 0;
    std::uint32_t pieces = 0;  // in flight
    int error = 0;
    bool modifies = false;
    bool holds_grace = false;
    Grace::Token grace = 0;
    std::uint64_t sequence = 0;
    std::vector<std::vector<iovec>> buffers;  // of the pieces, when there are several
  };
  // A flush that waits for the writes submitted before it.
  struct HeldFlush {
    Request request;
    std::uint64_t sequence = 0;
    std::size_t writes_left = 0;
  };

  bool start_direct(const Request& request, std::uint64_t sequence);
  // Enters the image's grace, whatever it returns.
  bool find_locations(const Request& request, Grace::Token& grace);
  void submit_pieces(std::uint32_t index, const Request& request);
  void start_flush(const Request& request, std::uint64_t sequence);
  void start_on_threads(const Request& request, std::uint64_t sequence);
  std::uint32_t take_slot(const Request& request, std::uint64_t sequence);
  void complete_piece(const Completion& completion);
  void finish(std::uint32_t index);
  void release_flushes(std::uint64_t write_sequence);
  FileChannel& file(std::size_t layer);
  ThreadEngine* threads();

  Chain& chain_;
  const IoEngine io_;
  EventLoop& loop_;
  std::function<void()> ready_;

  std::vector<std::unique_ptr<FileChannel>> files_;  // one a layer, made when needed
  std::unique_ptr<ThreadEngine> threads_;
  log::RateLimit limit_;

  std::vector<Location> locations_;  // of the request that is submitted
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t in_flight_ = 0;         // requests
  std::size_t writes_in_flight_ = 0;  // of these, what modifies the disk
  std::uint64_t sequence_ = 0;
  std::deque<HeldFlush> held_;

  std::vector<Completion> threads_done_;
  std::vector<Completion> done_;    // for the next reap()
  std::vector<Completion> reaped_;  // what the last reap() returned
};

}  // namespace vmm::disk::qcow2
