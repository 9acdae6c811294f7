// What a network card with offloads does, in software: checksums that the guest left out, and
// segments larger than its MTU.
//
// libslirp knows neither virtio headers nor segmentation, but takes and makes IP packets of nearly
// 64 KiB. So a guest's large segments go in whole, and libslirp is made to send large ones: the
// maximum segment size in the guest's SYN is raised on its way in (libslirp ignores it at times,
// see tcp_input), and kept. The large segments that come back say how the guest may cut them, or
// are cut here for a guest that takes no such segments.
//
// Every frame that comes in was written by a hostile guest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/user_net/virtio_net.h"
#include "src/user_net/wire.h"

namespace vmm::user_net {

using virtio_net::Header;
static_assert(sizeof(Header) == kHeaderSize);

// The Internet checksum (RFC 1071) before it is folded and inverted, of bytes in network order.
std::uint64_t checksum_add(std::uint64_t sum, std::span<const std::byte> bytes);
// The 16 bits to store, in network order.
std::uint16_t checksum_finish(std::uint64_t sum);

// Where the headers of a TCP segment are, from the start of the frame.
struct TcpView {
  std::uint16_t network = 0;    // IP header
  std::uint16_t transport = 0;  // TCP header
  std::uint16_t payload = 0;
  bool ipv6 = false;
  bool syn = false;
};
// Nothing for whatever is not an unfragmented TCP segment with whole headers.
std::optional<TcpView> find_tcp(std::span<const std::byte> frame);

// Fills in the checksum that `header` asks for; false when that lies outside of the frame.
bool complete_checksum(const Header& header, std::span<std::byte> frame);

// Raises the maximum segment size that a SYN offers and returns what it was; nothing when there is
// none or it is large already.
std::optional<std::uint16_t> raise_mss(std::span<std::byte> frame, const TcpView& tcp,
                                       std::uint16_t mss);

// Segment sizes of the guest's connections. A table of fixed size: a connection that was crowded
// out gets kFallback, which is right for any guest and slower only for those who forward.
class SegmentSizes {
 public:
  static constexpr std::uint16_t kFallback = 1200;
  static constexpr std::uint16_t kSmallest = 64;
  // `frame` comes from the guest.
  void remember(std::span<const std::byte> frame, const TcpView& tcp, std::uint16_t mss);
  // `frame` goes to the guest.
  std::uint16_t find(std::span<const std::byte> frame, const TcpView& tcp) const;

 private:
  struct Entry {
    std::uint32_t key = 0;
    std::uint16_t mss = 0;
  };
  std::array<Entry, 4096> entries_{};
};

// Turns a large TCP segment into one that the guest takes with GUEST_TSO4 or GUEST_TSO6: `mss` a
// piece, and only the sum of the pseudo header where the checksum is.
Header prepare_large_segment(std::span<std::byte> frame, const TcpView& tcp, std::uint16_t mss);

// Makes the IP header right for the size of the frame.
void set_ip_length(std::span<std::byte> frame, const TcpView& tcp);

// One piece of a large segment: a whole frame with `length` bytes of payload from `offset` on, its
// headers and checksums made right. `piece` is overwritten.
void cut_segment(std::span<const std::byte> frame, const TcpView& tcp, std::size_t offset,
                 std::size_t length, std::vector<std::byte>& piece);

}  // namespace vmm::user_net
