// Fragments: puts a guest's fragmented IPv4 packets together (RFC 791, 3.2), so that what follows
// sees whole packets: the gate their ports, and libslirp, which keeps 22 KiB a fragment without
// limit and for half a minute, none at all.
//
//   if (Fragments::is_fragment(frame)) frame = fragments.add(frame, now_ms);   // empty: not yet
//
// At most kPackets packets are open, each with its bytes; the oldest gives way. Fragments that
// overlap end their packet (as RFC 5722 has it for IPv6).
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vmm::user_net {

class Fragments {
 public:
  static constexpr std::size_t kPackets = 64;
  static constexpr std::int64_t kPatienceMs = 30'000;

  // Of IPv4: an IPv6 fragment is its sender's alone to make, and libslirp takes none.
  static bool is_fragment(std::span<const std::byte> frame);

  // The whole packet, as a frame that is valid until the next call, or nothing.
  std::span<std::byte> add(std::span<const std::byte> frame, std::int64_t now_ms);

  // Bytes that are kept, for tests.
  std::size_t size() const;

 private:
  static constexpr std::size_t kUnit = 8;  // of offsets
  static constexpr std::size_t kMostBytes = 65535;

  // What makes fragments of one packet (RFC 791: identification, source, destination, protocol).
  using Key = std::array<std::byte, 11>;
  struct Packet {
    Key key{};
    std::int64_t since_ms = 0;
    bool open = false;
    std::vector<std::byte> headers;  // of the first fragment
    std::vector<std::byte> payload;
    std::bitset<kMostBytes / kUnit + 1> have;
    std::size_t end = 0;  // of the payload; 0: not known
  };

  Packet& find(const Key& key, std::int64_t now_ms);
  std::span<std::byte> complete(Packet& packet);
  static void close(Packet& packet);

  std::array<Packet, kPackets> packets_;
  std::vector<std::byte> whole_;
};

}  // namespace vmm::user_net
