// TapBackend: frames through a tap device of the host.
//
//   auto tap = TRY(TapBackend::open("vmtap0", 2));    // ip tuntap add vmtap0 mode tap multi_queue
//   auto tap = TRY(TapBackend::adopt({{3, 4}}));      // descriptors that were inherited
//
// One descriptor a queue pair. A tap is never created here: who may use it is decided by the one
// who creates it.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/backend/net/backend.h"
#include "src/base/unique_fd.h"

namespace vmm::net {

class TapBackend : public NetBackend {
 public:
  // Attaches to the existing tap `name` with `pairs` queues.
  static Result<std::unique_ptr<TapBackend>> open(const std::string& name, unsigned pairs);
  // Queues that somebody else attached (with IFF_VNET_HDR), one a pair. Copies are taken: the given
  // ones stay open, for a machine that is made anew, but not over an exec. Errors name those that
  // were given.
  static Result<std::unique_ptr<TapBackend>> adopt(std::span<const int> descriptors);

  unsigned queue_pairs() const override { return static_cast<unsigned>(queues_.size()); }
  std::uint64_t features() const override;
  Result<void> start(std::uint64_t features) override;
  void stop() override;
  Result<void> set_offloads(std::uint64_t features) override;
  Result<void> set_active_pairs(unsigned pairs) override;
  int fd(unsigned pair) const override { return queues_[pair].get(); }
  SendResult send(unsigned pair, std::span<const Frame> frames) override;
  ReceiveResult receive(unsigned pair, std::span<const iovec> buffers) override;
  bool is_gone(unsigned pair) const override;

  const std::string& name() const { return name_; }

 private:
  TapBackend(std::string name, std::vector<UniqueFd> queues);
  Result<void> set_up();

  std::string name_;
  std::vector<UniqueFd> queues_;
  std::atomic<unsigned> active_;  // queues that are attached; the others read as if it were gone
};

}  // namespace vmm::net
