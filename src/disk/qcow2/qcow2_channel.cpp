#include "src/disk/qcow2/qcow2_channel.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "src/base/log.h"
#include "src/disk/buffers.h"

namespace vmm::disk::qcow2 {
namespace {

// A request in more pieces than this goes to a thread.
constexpr std::size_t kMaxPieces = 64;

bool modifies(const Request& request) {
  return request.operation != Operation::read && request.operation != Operation::flush;
}

}  // namespace

Qcow2Channel::Qcow2Channel(Chain& chain, IoEngine io, EventLoop& loop, std::function<void()> ready)
    : chain_(chain), io_(io), loop_(loop), ready_(std::move(ready)), files_(chain.layers()) {}

Qcow2Channel::~Qcow2Channel() {
  while (in_flight_ > 0 || !held_.empty()) {
    wait();
    (void)reap();
  }
  if (threads_) loop_.forget(threads_->fd());
}

void Qcow2Channel::submit(const Request& request) {
  const std::uint64_t sequence = ++sequence_;
  if (request.operation == Operation::flush) {
    if (writes_in_flight_ > 0) {
      held_.push_back({request, sequence, writes_in_flight_});
    } else {
      start_flush(request, sequence);
    }
    return;
  }
  if (!start_direct(request, sequence)) start_on_threads(request, sequence);
}

// ---- clusters that are there

bool Qcow2Channel::start_direct(const Request& request, std::uint64_t sequence) {
  if (request.operation != Operation::read && request.operation != Operation::write) return false;
  if (request.length == 0 || request.offset > chain_.size() ||
      request.length > chain_.size() - request.offset) {
    return false;
  }
  Grace::Token grace = 0;
  // A mapping that a loss of power would undo makes no write durable.
  const bool possible =
      find_locations(request, grace) && (!request.durable || chain_.top().is_clean());
  if (!possible) {
    chain_.top().leave(grace);
    return false;
  }
  const std::uint32_t index = take_slot(request, sequence);
  slots_[index].holds_grace = true;
  slots_[index].grace = grace;
  submit_pieces(index, request);
  return true;
}

bool Qcow2Channel::find_locations(const Request& request, Grace::Token& grace) {
  locations_.clear();
  const bool write = request.operation == Operation::write;
  for (std::uint64_t done = 0; done < request.length;) {
    const std::uint64_t offset = request.offset + done;
    const auto extent =
        chain_.top().map(offset, request.length - done, done == 0 ? &grace : nullptr);
    if (!extent || locations_.size() == kMaxPieces) return false;
    Location location{*extent, 0};
    if (extent->kind == Extent::Kind::unallocated && !write) {
      const auto below = chain_.locate_from(1, offset, extent->length);
      if (!below) return false;
      location = *below;
    }
    if (location.extent.kind == Extent::Kind::compressed) return false;
    if (write && !location.extent.writable) return false;
    locations_.push_back(location);
    done += location.extent.length;
  }
  return true;
}

void Qcow2Channel::submit_pieces(std::uint32_t index, const Request& request) {
  Slot& slot = slots_[index];
  slot.pieces = 1;  // until all are submitted
  slot.buffers.resize(locations_.size());
  std::span<const iovec> left = request.buffers;
  std::vector<iovec> rest;
  for (std::size_t i = 0; i < locations_.size(); ++i) {
    const auto& [extent, layer] = locations_[i];
    Request piece = request;
    piece.tag = index;
    piece.offset = extent.host;
    piece.length = extent.length;
    piece.more = request.more || i + 1 < locations_.size();
    if (locations_.size() > 1) {
      slot.buffers[i] = take_bytes(left, extent.length);
      piece.buffers = slot.buffers[i];
      rest = skip_bytes(left, extent.length);
      left = rest;
    }
    if (extent.kind == Extent::Kind::data) {
      ++slot.pieces;
      file(layer).submit(piece);
    } else {
      for (const auto& buffer : piece.buffers) std::memset(buffer.iov_base, 0, buffer.iov_len);
    }
  }
  if (--slot.pieces == 0) finish(index);
}

FileChannel& Qcow2Channel::file(std::size_t layer) {
  auto& channel = files_[layer];
  if (!channel) channel = std::make_unique<FileChannel>(chain_.file(layer), io_, loop_, ready_);
  return *channel;
}

// ---- everything else

void Qcow2Channel::start_flush(const Request& request, std::uint64_t sequence) {
  if (!chain_.top().is_clean()) {
    start_on_threads(request, sequence);
    return;
  }
  const std::uint32_t index = take_slot(request, sequence);
  slots_[index].pieces = 1;
  Request piece = request;
  piece.tag = index;
  file(0).submit(piece);
}

void Qcow2Channel::start_on_threads(const Request& request, std::uint64_t sequence) {
  ThreadEngine* pool = threads();
  if (pool == nullptr) {  // no descriptor to be had
    done_.push_back({request.tag, chain_.perform(request)});
    return;
  }
  const std::uint32_t index = take_slot(request, sequence);
  slots_[index].pieces = 1;
  Request tagged = request;
  tagged.tag = index;
  pool->submit(tagged);
}

ThreadEngine* Qcow2Channel::threads() {
  if (threads_) return threads_.get();
  auto engine =
      ThreadEngine::create([this](const Request& request) { return chain_.perform(request); });
  if (!engine) {
    log::warn_limited(limit_, "disk '{}': {}", chain_.name(), engine.error().message());
    return nullptr;
  }
  threads_ = std::move(*engine);
  const auto watched = loop_.watch(threads_->fd(), EPOLLIN, [this](std::uint32_t) { ready_(); });
  if (!watched)
    log::error_limited(limit_, "disk '{}': {}", chain_.name(), watched.error().message());
  return threads_.get();
}

// ---- completion

std::uint32_t Qcow2Channel::take_slot(const Request& request, std::uint64_t sequence) {
  auto index = static_cast<std::uint32_t>(slots_.size());
  if (free_.empty()) {
    slots_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  Slot& slot = slots_[index];
  slot.tag = request.tag;
  slot.pieces = 0;
  slot.error = 0;
  slot.modifies = modifies(request);
  slot.holds_grace = false;
  slot.sequence = sequence;
  ++in_flight_;
  if (slot.modifies) ++writes_in_flight_;
  return index;
}

void Qcow2Channel::commit() {
  for (auto& file : files_) {
    if (file) file->commit();
  }
}

std::span<const Completion> Qcow2Channel::reap() {
  if (in_flight_ > 0) {
    for (auto& file : files_) {
      if (!file) continue;
      for (const auto& completion : file->reap()) complete_piece(completion);
    }
    if (threads_) {
      threads_done_.clear();
      threads_->reap(threads_done_);
      for (const auto& completion : threads_done_) complete_piece(completion);
    }
  }
  reaped_.swap(done_);
  done_.clear();
  return reaped_;
}

void Qcow2Channel::complete_piece(const Completion& completion) {
  Slot& slot = slots_[completion.tag];
  if (completion.error != 0) slot.error = completion.error;
  if (--slot.pieces == 0) finish(completion.tag);
}

void Qcow2Channel::finish(std::uint32_t index) {
  const Slot& slot = slots_[index];
  if (slot.holds_grace) chain_.top().leave(slot.grace);
  done_.push_back({slot.tag, slot.error});
  free_.push_back(index);
  --in_flight_;
  if (!slot.modifies) return;
  --writes_in_flight_;
  if (!held_.empty()) release_flushes(slot.sequence);
}

void Qcow2Channel::release_flushes(std::uint64_t write_sequence) {
  for (auto& held : held_) {
    if (write_sequence < held.sequence) --held.writes_left;
  }
  // Those that were held first wait for the fewest writes.
  while (!held_.empty() && held_.front().writes_left == 0) {
    const HeldFlush flush = held_.front();
    held_.pop_front();
    start_flush(flush.request, flush.sequence);
  }
  commit();
}

void Qcow2Channel::wait() {
  commit();
  if (in_flight_ == 0 || !done_.empty()) return;
  std::vector<pollfd> polled;
  for (auto& file : files_) {
    if (!file) continue;
    if (file->has_completed()) return;
    file->add_polled(polled);
  }
  if (threads_) polled.push_back({threads_->fd(), POLLIN, 0});
  // An interrupted wait: the caller looks and waits again.
  (void)::poll(polled.data(), polled.size(), -1);
}

}  // namespace vmm::disk::qcow2
