// PageServer: puts the pages of an archive into a guest's memory when they are touched first, by a
// vCPU, a device, or the kernel for one of them: userfaultfd(2), missing faults.
//
//   auto server = TRY(PageServer::start(std::move(packed), *memory, on_damage));
//   ... the machine runs ...
//   TRY(server->finish());         // all of it is in; the server is not needed any more
//
// A fault is answered by decoding the frame of its page, and all that the frame has of the memory
// is put in, the page first. So each frame is decoded once and none is kept. Zeroes in between are
// put in by the 2 MiB; long stretches of them are not registered, and the kernel has huge pages
// for them.
//
// What the guest gives back (balloon, free page reporting) reads as zero and never as what the
// archive has there: GuestMemory::discard() maps fresh memory over it, which is not registered, so
// that putting a page in there fails, in whatever order the two happen. And a page that is missing
// though its frame was put in is answered with zeroes.
//
// The server's thread sees guest memory through ioctls alone, and what it waits for is held by
// nobody who touches guest memory. A child of fork(2) would see what is missing as zeroes:
// finish() before.
//
// A frame that cannot be read (its checksum does not fit, the file was cut off) puts nothing in:
// whoever touched the page waits for ever, so that on_damage had better end the process. The
// server must outlive all who touch the memory; when it ends, what is missing reads as zero.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/base/worker.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/packed_memory.h"

namespace vmm::snapshot {

class PageServer {
 public:
  // On the server's thread, once, with a sentence.
  using OnDamage = std::function<void(const std::string&)>;

  // `memory` has no content yet. Error: this host does not permit it (to serve faults of the
  // kernel for the guest takes /dev/userfaultfd, vm.unprivileged_userfaultfd or CAP_SYS_PTRACE).
  static Result<std::unique_ptr<PageServer>> start(std::shared_ptr<const PackedMemory> packed,
                                                   GuestMemory& memory, OnDamage on_damage);
  ~PageServer();

  // Puts in what is missing, while faults are answered; returns when nothing is. Error: there is a
  // frame that cannot be read, nobody needed it so far; or cancelled.
  Result<void> finish(Progress& progress = Progress::none());

 private:
  using Done = std::promise<Result<void>>;
  PageServer(std::shared_ptr<const PackedMemory> packed, const GuestMemory& memory,
             OnDamage on_damage);
  Result<void> open();
  Result<void> serve(std::span<const std::byte> pages) const;
  // On the server's thread:
  void on_faults();
  Result<void> serve(std::uint64_t address);
  Result<void> put_frame(std::size_t frame, std::optional<std::uint64_t> first);
  Result<void> put(std::uint64_t page, std::span<const std::byte> bytes) const;
  Result<void> put_zeroes(std::uint64_t page, std::uint64_t count) const;
  void finish_step(const std::shared_ptr<Done>& done, Progress& progress);

  const std::vector<GuestMemory::Region> regions_;
  const OnDamage on_damage_;
  const std::shared_ptr<const PackedMemory> packed_;
  UniqueFd faults_;
  std::vector<bool> served_;  // frames that are in, as far as they are not given back
  std::size_t next_ = 0;      // all frames before it are served
  std::unique_ptr<Worker> worker_;
};

}  // namespace vmm::snapshot
