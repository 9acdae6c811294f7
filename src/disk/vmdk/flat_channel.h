// FlatChannel: a Channel to a FlatDisk. A request goes to the FileChannel of the file that it lies
// in,
// or in pieces to several.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "src/disk/file_channel.h"
#include "src/disk/vmdk/flat_disk.h"

namespace vmm::disk::vmdk {

class FlatChannel final : public Channel {
 public:
  FlatChannel(FlatDisk& disk, IoEngine io, EventLoop& loop, std::function<void()> ready);
  ~FlatChannel() override;

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
    std::vector<std::vector<iovec>> buffers;  // of the pieces, when there are several
  };

  std::uint32_t take_slot(std::uint32_t tag);
  void submit_pieces(const Request& request);
  void complete_piece(const Completion& completion);
  FileChannel& file(std::size_t index);

  FlatDisk& disk_;
  const IoEngine io_;
  EventLoop& loop_;
  std::function<void()> ready_;
  std::vector<std::unique_ptr<FileChannel>> files_;  // one a file, made when needed
  std::vector<std::size_t> made_;                    // which of them are there

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t in_flight_ = 0;  // requests

  std::vector<Completion> done_;    // for the next reap()
  std::vector<Completion> reaped_;  // what the last reap() returned
};

}  // namespace vmm::disk::vmdk
