#include "src/disk/uring_engine.h"

#include <cerrno>

#include "src/disk/buffers.h"

namespace vmm::disk {
namespace {

constexpr unsigned kEntries = 256;
// As many as the largest virtqueue has requests, so that completions never overflow.
constexpr unsigned kCompletions = 1024;

// Completions are run when this thread enters the kernel anyway, which a flag in the ring tells
// (5.19); older kernels interrupt it. IORING_SETUP_DEFER_TASKRUN was measured to be no quicker, and
// a ring set up with it wakes no one who polls its descriptor.
constexpr unsigned kSetups[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};

}  // namespace

Result<std::unique_ptr<UringEngine>> UringEngine::create(RawFile& file) {
  std::unique_ptr<UringEngine> engine(new UringEngine(file));
  TRY(engine->start());
  return engine;
}

Result<void> UringEngine::start() {
  int result = 0;
  for (const unsigned setup : kSetups) {
    io_uring_params params{};
    params.flags = setup | IORING_SETUP_CQSIZE;
    params.cq_entries = kCompletions;
    result = io_uring_queue_init_params(kEntries, &ring_, &params);
    if (result != -EINVAL) break;  // an unknown flag
  }
  if (result < 0) {
    errno = -result;
    return fail_errno("cannot set up io_uring");
  }
  started_ = true;
  return {};
}

UringEngine::~UringEngine() {
  if (started_) io_uring_queue_exit(&ring_);
}

void UringEngine::submit(const Request& request) {
  std::size_t slot = transfers_.size();
  if (free_.empty()) {
    transfers_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  transfers_[slot].request = request;
  prepare(slot);
}

void UringEngine::prepare(std::size_t slot) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    commit();
    sqe = io_uring_get_sqe(&ring_);
  }
  Transfer& transfer = transfers_[slot];
  if (sqe == nullptr) {  // the kernel takes nothing any more
    failed_.push_back({transfer.request.tag, EIO});
    free_.push_back(slot);
    return;
  }
  const Request& request = transfer.request;
  const auto count = static_cast<unsigned>(request.buffers.size());
  // Not a registered file: the kernel takes rings apart some time after their process ended, and
  // the lock on the disk would stay until then.
  const int fd = file_.fd();
  switch (request.operation) {
    case Operation::read:
      if (count == 1) {
        const iovec& buffer = request.buffers[0];
        io_uring_prep_read(sqe, fd, buffer.iov_base, static_cast<unsigned>(buffer.iov_len),
                           request.offset);
      } else {
        io_uring_prep_readv(sqe, fd, request.buffers.data(), count, request.offset);
      }
      break;
    case Operation::write:
      if (count == 1) {
        const iovec& buffer = request.buffers[0];
        io_uring_prep_write(sqe, fd, buffer.iov_base, static_cast<unsigned>(buffer.iov_len),
                            request.offset);
      } else {
        io_uring_prep_writev(sqe, fd, request.buffers.data(), count, request.offset);
      }
      if (request.durable) sqe->rw_flags = RWF_DSYNC;
      break;
    default:
      transfer.covered = file_.written();
      io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
  }
  io_uring_sqe_set_data64(sqe, slot);
}

void UringEngine::commit() {
  while (io_uring_sq_ready(&ring_) > 0) {
    const int result = io_uring_submit(&ring_);
    if (result >= 0 || result == -EINTR) continue;
    if (result != -EBUSY && result != -EAGAIN) return;
    (void)io_uring_get_events(&ring_);  // short of memory: completions give some back
  }
}

bool UringEngine::finish(std::size_t slot, int result, std::vector<Completion>& completions) {
  Transfer& transfer = transfers_[slot];
  Request& request = transfer.request;
  if (result == -EINTR || result == -EAGAIN) {
    prepare(slot);
    return false;
  }
  int error = result < 0 ? -result : 0;
  if (request.operation == Operation::flush) {
    if (error == 0) file_.note_flushed(transfer.covered);
  } else if (error == 0) {
    const auto done = static_cast<std::uint64_t>(result);
    if (done == 0) {
      error = EIO;  // someone cut the file
    } else if (done < request.length) {
      // A short transfer: go on behind it.
      transfer.rest = skip_bytes(request.buffers, done);
      request.buffers = transfer.rest;
      request.offset += done;
      request.length -= done;
      prepare(slot);
      return false;
    }
  }
  if (request.operation == Operation::write) file_.note_written();
  completions.push_back({request.tag, error});
  free_.push_back(slot);
  return true;
}

void UringEngine::reap(std::vector<Completion>& completions) {
  completions.insert(completions.end(), failed_.begin(), failed_.end());
  failed_.clear();
  io_uring_cqe* cqes[64];
  bool again = false;
  for (;;) {
    // Runs deferred completions first, where there are any.
    const unsigned count = io_uring_peek_batch_cqe(&ring_, cqes, 64);
    for (unsigned i = 0; i < count; ++i) {
      const io_uring_cqe* cqe = cqes[i];
      if (!finish(io_uring_cqe_get_data64(cqe), cqe->res, completions)) again = true;
    }
    io_uring_cq_advance(&ring_, count);
    if (count < 64) break;
  }
  if (again) commit();
}

}  // namespace vmm::disk
