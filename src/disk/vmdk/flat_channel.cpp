#include "src/disk/vmdk/flat_channel.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "src/disk/buffers.h"

namespace vmm::disk::vmdk {

FlatChannel::FlatChannel(FlatDisk& disk, IoEngine io, EventLoop& loop, std::function<void()> ready)
    : disk_(disk), io_(io), loop_(loop), ready_(std::move(ready)), files_(disk.file_count()) {}

FlatChannel::~FlatChannel() {
  while (in_flight_ > 0) {
    wait();
    (void)reap();
  }
}

void FlatChannel::submit(const Request& request) {
  if (request.operation == Operation::flush) {
    done_.push_back({request.tag, 0});  // nothing is ever written
  } else if (request.operation != Operation::read) {
    done_.push_back({request.tag, EROFS});
  } else if (request.length == 0 || request.offset >= disk_.info().size ||
             request.length > disk_.info().size - request.offset) {
    done_.push_back({request.tag, EINVAL});
  } else {
    submit_pieces(request);
  }
}

void FlatChannel::submit_pieces(const Request& request) {
  const std::uint32_t index = take_slot(request.tag);
  slots_[index].pieces = 1;  // until all are submitted
  std::span<const iovec> left = request.buffers;
  std::vector<iovec> rest;
  const std::uint64_t end = request.offset + request.length;
  std::uint64_t offset = request.offset;
  for (auto i = disk_.part_at(offset); offset < end; ++i) {
    const Part& part = disk_.parts()[i];
    Request piece = request;
    piece.tag = index;
    piece.offset = part.offset + (offset - part.begin);
    piece.length = std::min(end, part.end()) - offset;
    piece.more = request.more || offset + piece.length < end;
    if (piece.length < request.length) {
      auto& buffers = slots_[index].buffers.emplace_back(take_bytes(left, piece.length));
      piece.buffers = buffers;
      rest = skip_bytes(left, piece.length);
      left = rest;
    }
    ++slots_[index].pieces;
    file(part.file).submit(piece);
    offset += piece.length;
  }
  complete_piece({index, 0});
}

FileChannel& FlatChannel::file(std::size_t index) {
  auto& channel = files_[index];
  if (!channel) {
    channel = std::make_unique<FileChannel>(disk_.file(index), io_, loop_, ready_);
    made_.push_back(index);
  }
  return *channel;
}

std::uint32_t FlatChannel::take_slot(std::uint32_t tag) {
  auto index = static_cast<std::uint32_t>(slots_.size());
  if (free_.empty()) {
    slots_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  slots_[index] = {.tag = tag};
  ++in_flight_;
  return index;
}

void FlatChannel::complete_piece(const Completion& completion) {
  Slot& slot = slots_[completion.tag];
  if (completion.error != 0) slot.error = completion.error;
  if (--slot.pieces > 0) return;
  done_.push_back({slot.tag, slot.error});
  free_.push_back(completion.tag);
  --in_flight_;
}

void FlatChannel::commit() {
  for (const auto place : made_) files_[place]->commit();
}

std::span<const Completion> FlatChannel::reap() {
  if (in_flight_ > 0) {
    for (const auto place : made_) {
      for (const auto& completion : files_[place]->reap()) complete_piece(completion);
    }
  }
  reaped_.swap(done_);
  done_.clear();
  return reaped_;
}

void FlatChannel::wait() {
  commit();
  if (in_flight_ == 0 || !done_.empty()) return;
  std::vector<pollfd> polled;
  for (const auto place : made_) {
    if (files_[place]->has_completed()) return;
    files_[place]->add_polled(polled);
  }
  // An interrupted wait: the caller looks and waits again.
  (void)::poll(polled.data(), polled.size(), -1);
}

}  // namespace vmm::disk::vmdk
