#include "src/user_net/merger.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "src/user_net/packet.h"

namespace vmm::user_net {
namespace {

constexpr std::size_t kMostIpBytes = 65535;
// Offsets in the TCP header.
constexpr std::size_t kSequence = 4, kAcknowledged = 8, kWindow = 14;
constexpr std::size_t kPlainHeader = 20;
constexpr std::byte kAckAlone{0x10}, kPush{0x08};

std::uint32_t sequence_of(std::span<const std::byte> frame, const TcpView& tcp) {
  std::uint32_t value;
  std::memcpy(&value, &frame[tcp.transport + kSequence], sizeof value);
  return ntohl(value);
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b, std::size_t at,
          std::size_t length) {
  return std::memcmp(&a[at], &b[at], length) == 0;
}

}  // namespace

bool Merger::takes(std::span<const std::byte> frame, const TcpView& tcp) {
  const std::byte flags = frame[tcp.transport + kTcpFlags];
  return (flags == kAckAlone || flags == (kAckAlone | kPush)) && frame.size() > tcp.payload &&
         tcp.payload == tcp.transport + kPlainHeader;
}

void Merger::start(std::span<const std::byte> frame, const TcpView& tcp) {
  frame_.assign(frame.begin(), frame.end());
  tcp_ = tcp;
  count_ = 1;
  next_ = sequence_of(frame, tcp) + static_cast<std::uint32_t>(frame.size() - tcp.payload);
}

bool Merger::append(std::span<const std::byte> frame, const TcpView& tcp) {
  if (empty() || tcp.ipv6 != tcp_.ipv6 || tcp.payload != tcp_.payload) return false;
  const std::size_t payload = frame.size() - tcp.payload;
  if (frame_.size() - tcp_.network + payload > kMostIpBytes) return false;
  const std::size_t addresses = tcp.network + (tcp.ipv6 ? 8u : 12u);
  const std::size_t flags = tcp.transport + kTcpFlags;
  // From the addresses to the ports nothing but these lies between.
  if (!same(frame, frame_, addresses, tcp.transport + kSequence - addresses) ||
      !same(frame, frame_, tcp.transport + kAcknowledged, 4) ||
      !same(frame, frame_, tcp.transport + kWindow, 2) || frame_[flags] != kAckAlone ||
      sequence_of(frame, tcp) != next_) {
    return false;
  }
  frame_[flags] |= frame[flags];
  frame_.insert(frame_.end(), frame.begin() + tcp.payload, frame.end());
  next_ += static_cast<std::uint32_t>(payload);
  ++count_;
  return true;
}

std::span<std::byte> Merger::frame() {
  if (merged()) set_ip_length(frame_, tcp_);
  return frame_;
}

}  // namespace vmm::user_net
