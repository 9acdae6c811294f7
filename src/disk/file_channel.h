// FileChannel: a Channel to a RawFile, which picks for each request the way that was measured to be
// quickest (IoEngine::automatic):
//
//  - On tmpfs a transfer is a copy that never waits, and io_uring would hand it to a kernel thread
//    first: the worker makes the copy itself (4 KiB: 1.6 us against 2.5 at depth 32, 1.9 against
//    5.4 at depth 1). Of several long reads at once, io_uring's threads copy some.
//  - A buffered write is a copy too, as long as the page cache takes it; io_uring hands it to a
//    kernel thread on most file systems. The worker makes it itself until one was slow, and then
//    leaves writes to io_uring for a while, so that reads do not wait behind them.
//  - Everything else goes to io_uring, where what the page cache holds is done in the call that
//    submits the batch, or to threads where the host forbids io_uring.
//
// Engines are made when they are first needed: a machine on tmpfs never sets up a ring.
#pragma once

#include <poll.h>

#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "src/disk/raw_file.h"
#include "src/disk/thread_engine.h"
#include "src/disk/uring_engine.h"

namespace vmm::disk {

class FileChannel : public Channel {
 public:
  FileChannel(RawFile& file, IoEngine io, EventLoop& loop, std::function<void()> ready);
  ~FileChannel() override;

  void submit(const Request& request) override;
  void commit() override;
  std::span<const Completion> reap() override;
  void wait() override;

  // For who waits for several channels at once: whether reap() has something already, and what to
  // poll until it has.
  bool has_completed() const { return !done_.empty(); }
  void add_polled(std::vector<pollfd>& polled) const;

 private:
  // What is in an engine; its index is the tag there.
  struct Pending {
    std::uint32_t tag = 0;
    bool modifies = false;
    std::uint64_t sequence = 0;  // in the order of submit()
  };
  // A flush that waits for the writes submitted before it.
  struct HeldFlush {
    Request request;
    std::uint64_t sequence = 0;
    std::size_t writes_left = 0;
  };

  bool try_inline(const Request& request);
  bool is_inline(const Request& request);
  bool is_worth_sharing(const Request& request) const;
  void dispatch(const Request& request, std::uint64_t sequence);
  void complete(const Completion& completion);
  void release_flushes(std::uint64_t write_sequence);
  UringEngine* uring();
  ThreadEngine* threads();
  void watch(int fd);

  RawFile& file_;
  IoEngine io_;
  EventLoop& loop_;
  std::function<void()> ready_;
  const std::size_t max_shared_;  // requests that other processors copy at the same time

  std::unique_ptr<UringEngine> uring_;
  std::unique_ptr<ThreadEngine> threads_;
  bool uring_failed_ = false;

  std::vector<Pending> pending_;
  std::vector<std::uint32_t> free_;
  std::size_t in_flight_ = 0;         // in the engines
  std::size_t writes_in_flight_ = 0;  // of these, what modifies the disk
  std::uint64_t sequence_ = 0;
  std::deque<HeldFlush> held_;

  std::vector<Completion> engine_done_;  // with the engines' tags
  std::vector<Completion> done_;         // for the next reap()
  std::vector<Completion> reaped_;       // what the last reap() returned

  EventLoop::Clock::time_point writes_slow_until_{};
};

}  // namespace vmm::disk
