// A virtio network frame, its header and the feature bits (virtio 1.2, 5.1.3 and 5.1.6), as masks:
// for the device, its backends and the network process. <linux/virtio_net.h> has the bits too, but
// is not C++.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmm::virtio_net {

inline constexpr std::uint64_t kCsum = 1ull << 0;
inline constexpr std::uint64_t kGuestCsum = 1ull << 1;
inline constexpr std::uint64_t kCtrlGuestOffloads = 1ull << 2;
inline constexpr std::uint64_t kMtu = 1ull << 3;
inline constexpr std::uint64_t kMac = 1ull << 5;
inline constexpr std::uint64_t kGuestTso4 = 1ull << 7;
inline constexpr std::uint64_t kGuestTso6 = 1ull << 8;
inline constexpr std::uint64_t kGuestEcn = 1ull << 9;
inline constexpr std::uint64_t kHostTso4 = 1ull << 11;
inline constexpr std::uint64_t kHostTso6 = 1ull << 12;
inline constexpr std::uint64_t kHostEcn = 1ull << 13;
inline constexpr std::uint64_t kMrgRxbuf = 1ull << 15;
inline constexpr std::uint64_t kStatus = 1ull << 16;
inline constexpr std::uint64_t kCtrlVq = 1ull << 17;
inline constexpr std::uint64_t kCtrlRx = 1ull << 18;
inline constexpr std::uint64_t kCtrlRxExtra = 1ull << 20;
inline constexpr std::uint64_t kMq = 1ull << 22;
inline constexpr std::uint64_t kCtrlMacAddr = 1ull << 23;

// What a backend may do for a guest, and what a guest may take.
inline constexpr std::uint64_t kHostOffloads = kCsum | kHostTso4 | kHostTso6 | kHostEcn;
inline constexpr std::uint64_t kGuestOffloads = kGuestCsum | kGuestTso4 | kGuestTso6 | kGuestEcn;
inline constexpr std::uint64_t kOffloads = kHostOffloads | kGuestOffloads;

// Of an interface that was told of no other one.
inline constexpr std::uint16_t kDefaultMtu = 1500;

// Header::flags
inline constexpr std::uint8_t kNeedsCsum = 1;
inline constexpr std::uint8_t kDataValid = 2;
// Header::gso_type
inline constexpr std::uint8_t kGsoNone = 0;
inline constexpr std::uint8_t kGsoTcp4 = 1;
inline constexpr std::uint8_t kGsoTcp6 = 4;

// In front of every frame, little endian.
struct Header {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = kGsoNone;
  std::uint16_t hdr_len = 0;   // Ethernet, IP and TCP headers
  std::uint16_t gso_size = 0;  // payload of a segment
  std::uint16_t csum_start = 0;
  std::uint16_t csum_offset = 0;  // from csum_start
  std::uint16_t num_buffers = 0;  // only on the way to the guest
};
static_assert(sizeof(Header) == 12);

inline constexpr std::size_t kHeaderSize = sizeof(Header);
inline constexpr std::size_t kLinkHeader = 18;  // Ethernet's, with a VLAN tag
// Header and Ethernet header: nothing shorter is a frame.
inline constexpr std::size_t kMinFrame = kHeaderSize + 14;
// The largest: with an IP packet of the largest size.
inline constexpr std::size_t kMaxFrame = kHeaderSize + kLinkHeader + 65535;

}  // namespace vmm::virtio_net
