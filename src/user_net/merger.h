// Merger: gathers consecutive TCP segments of one connection into one, as a network card with
// receive offload does. libslirp sends a window in pieces; a guest that gets it whole acknowledges
// once, for one interrupt.
//
//   if (!merger.append(frame, tcp)) { send(merger); merger.start(frame, tcp); }
//
// Only for guests that take large segments. Frames come from libslirp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/user_net/offload.h"

namespace vmm::user_net {

class Merger {
 public:
  // Whether it is data and nothing else, so that it may be merged.
  static bool takes(std::span<const std::byte> frame, const TcpView& tcp);

  bool empty() const { return frame_.empty(); }
  // Neither whole nor right in its checksums when more than one is in it: see take().
  bool merged() const { return count_ > 1; }
  void start(std::span<const std::byte> frame, const TcpView& tcp);
  // False when it does not continue what is held.
  bool append(std::span<const std::byte> frame, const TcpView& tcp);

  const TcpView& view() const { return tcp_; }
  // The segment with right lengths and IP checksum; its TCP checksum is right if it is not merged.
  // Valid until start() or clear().
  std::span<std::byte> frame();
  void clear() { frame_.clear(); }

 private:
  std::vector<std::byte> frame_;
  TcpView tcp_;
  unsigned count_ = 0;
  std::uint32_t next_ = 0;  // sequence number
};

}  // namespace vmm::user_net
