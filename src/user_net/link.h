// Link: the network process's end of an Ethernet socket (wire.h). Reads frames in batches, gathers
// small ones on their way out, and keeps what the machine does not take at once.
//
// One thread.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/user_net/offload.h"
#include "src/user_net/wire.h"

namespace vmm::user_net {

class Link {
 public:
  explicit Link(UniqueFd socket);

  int fd() const { return socket_.get(); }
  // Says that the network is set up, with a word for the log perhaps, or why it is not.
  void greet(std::string_view error, std::string_view note = "");

  enum class Received : std::uint8_t { all, some, gone };
  // Hands over what the machine sent, a bounded number of messages; `some` when there may be more,
  // `gone` with the machine. The handler may change the bytes.
  Received receive(const std::function<void(std::span<std::byte> message)>& handler);

  // Sends soon, at flush() at the latest; in order.
  void send(const Header& header, std::span<const std::byte> frame);
  // Call before waiting, and when the socket can be written.
  void flush();
  // Frames wait for the machine: whoever makes more of them should stop.
  bool congested() const { return !waiting_.empty(); }
  std::uint64_t dropped() const { return dropped_; }

 private:
  static constexpr std::size_t kBatch = 8;
  static constexpr std::size_t kSmall = 2048;
  static constexpr std::size_t kGathered = 32;

  bool send_now(std::span<const iovec> parts);
  void keep(const Header& header, std::span<const std::byte> frame);
  void flush_gathered();
  void flush_waiting();

  UniqueFd socket_;
  std::vector<std::byte> buffers_;  // kBatch messages
  std::array<mmsghdr, kBatch> messages_{};
  std::array<iovec, kBatch> vectors_{};

  // Small frames that go out by one system call, with their headers.
  std::array<std::array<std::byte, kSmall>, kGathered> gathered_;
  std::array<std::size_t, kGathered> gathered_size_{};
  std::size_t gathered_count_ = 0;

  std::deque<std::vector<std::byte>> waiting_;
  std::size_t waiting_bytes_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace vmm::user_net
