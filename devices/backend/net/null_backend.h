// NullBackend: a network card's backend when it is connected to nothing. It offers all offloads, so
// that a restored driver finds the ones it negotiated; frames go nowhere and none come.
#pragma once

#include <memory>
#include <vector>

#include "devices/backend/net/backend.h"
#include "src/base/unique_fd.h"

namespace vmm::net {

class NullBackend : public NetBackend {
 public:
  static Result<std::unique_ptr<NullBackend>> create(unsigned queue_pairs);

  unsigned queue_pairs() const override { return queue_pairs_; }
  std::uint64_t features() const override;
  Result<void> start(std::uint64_t) override { return {}; }
  void stop() override {}
  Result<void> set_offloads(std::uint64_t) override { return {}; }
  Result<void> set_active_pairs(unsigned) override { return {}; }
  int fd(unsigned pair) const override { return events_[pair].get(); }
  SendResult send(unsigned pair, std::span<const Frame> frames) override;
  ReceiveResult receive(unsigned pair, std::span<const iovec> buffers) override;

 private:
  explicit NullBackend(unsigned queue_pairs) : queue_pairs_(queue_pairs) {}
  const unsigned queue_pairs_;
  std::vector<UniqueFd> events_;  // one a pair, never readable
};

}  // namespace vmm::net
