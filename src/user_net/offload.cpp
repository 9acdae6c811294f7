#include "src/user_net/offload.h"

#include <netinet/in.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/user_net/bytes.h"
#include "src/user_net/packet.h"

namespace vmm::user_net {
namespace {

constexpr std::uint8_t kSyn = 0x02;

std::uint16_t fold(std::uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

// Addresses and ports, the same for both directions when told which end is the guest's.
std::uint32_t connection_key(std::span<const std::byte> frame, const TcpView& tcp,
                             bool from_guest) {
  const std::size_t length = tcp.ipv6 ? 16 : 4;
  const std::size_t addresses = tcp.network + (tcp.ipv6 ? 8u : 12u);
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  const auto mix = [&](std::size_t at, std::size_t count) {
    for (const auto byte : frame.subspan(at, count)) {
      hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3;
    }
  };
  const std::size_t source = addresses, target = addresses + length;
  const std::size_t source_port = tcp.transport, target_port = tcp.transport + 2u;
  mix(from_guest ? source : target, length);
  mix(from_guest ? source_port : target_port, 2);
  mix(from_guest ? target : source, length);
  mix(from_guest ? target_port : source_port, 2);
  return static_cast<std::uint32_t>(hash ^ hash >> 32);
}

}  // namespace

std::uint64_t checksum_add(std::uint64_t sum, std::span<const std::byte> bytes) {
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  // Sums of 32-bit words in 64 bits: they cannot overflow below 16 GiB. Several, so that additions
  // need not wait for one another.
  std::array<std::uint64_t, 8> sums{};
  while (left >= 32) {
    std::array<std::uint32_t, 8> words;
    std::memcpy(words.data(), at, sizeof words);
    for (std::size_t i = 0; i < words.size(); ++i) sums[i] += words[i];
    at += 32;
    left -= 32;
  }
  for (const auto part : sums) sum += part;
  while (left >= 2) {
    std::uint16_t word;
    std::memcpy(&word, at, sizeof word);
    sum += word;
    at += 2;
    left -= 2;
  }
  if (left == 1) {
    std::uint16_t word = 0;
    std::memcpy(&word, at, 1);
    sum += word;
  }
  return sum;
}

std::uint16_t checksum_finish(std::uint64_t sum) {
  const auto value = static_cast<std::uint16_t>(~fold(sum));
  // Zero means "none" to UDP; both stand for the same sum.
  return value == 0 ? 0xffff : value;
}

std::optional<TcpView> find_tcp(std::span<const std::byte> frame) {
  if (frame.size() < kEthernet + kIpv4Header) return std::nullopt;
  TcpView view;
  view.network = kEthernet;
  const std::uint16_t type = load16(frame, 12);
  if (type == kTypeIpv4) {
    const std::uint8_t version = load8(frame, kEthernet);
    const std::size_t length = (version & 15u) * 4;
    const bool fragment = (load16(frame, kEthernet + 6) & 0x3fff) != 0;
    if (version >> 4 != 4 || length < kIpv4Header || fragment ||
        load8(frame, kEthernet + 9) != IPPROTO_TCP) {
      return std::nullopt;
    }
    view.transport = static_cast<std::uint16_t>(kEthernet + length);
  } else if (type == kTypeIpv6) {
    // Extension headers: such segments go the slow way.
    if (frame.size() < kEthernet + kIpv6Header || load8(frame, kEthernet) >> 4 != 6 ||
        load8(frame, kEthernet + 6) != IPPROTO_TCP) {
      return std::nullopt;
    }
    view.ipv6 = true;
    view.transport = kEthernet + kIpv6Header;
  } else {
    return std::nullopt;
  }
  if (frame.size() < view.transport + kTcpHeader) return std::nullopt;
  const std::size_t header = (load8(frame, view.transport + 12u) >> 4) * 4u;
  if (header < kTcpHeader || frame.size() < view.transport + header) return std::nullopt;
  view.payload = static_cast<std::uint16_t>(view.transport + header);
  view.syn = (load8(frame, view.transport + kTcpFlags) & kSyn) != 0;
  return view;
}

bool complete_checksum(const Header& header, std::span<std::byte> frame) {
  const std::size_t start = header.csum_start;
  const std::size_t at = start + header.csum_offset;
  if (start > frame.size() || at + 2 > frame.size()) return false;
  // The field holds the pseudo header's sum, so it takes part.
  store_raw16(frame, at, checksum_finish(checksum_add(0, frame.subspan(start))));
  return true;
}

std::optional<std::uint16_t> raise_mss(std::span<std::byte> frame, const TcpView& tcp,
                                       std::uint16_t mss) {
  constexpr std::uint8_t kEnd = 0, kNothing = 1, kMss = 2;
  std::size_t at = tcp.transport + kTcpHeader;
  while (at < tcp.payload) {
    const std::uint8_t kind = load8(frame, at);
    if (kind == kEnd) break;
    if (kind == kNothing) {
      ++at;
      continue;
    }
    if (at + 2 > tcp.payload) break;
    const std::size_t length = load8(frame, at + 1);
    if (length < 2 || at + length > tcp.payload) break;
    if (kind == kMss && length == 4) {
      const std::uint16_t old = load16(frame, at + 2);
      if (old >= mss) return std::nullopt;
      // RFC 1624: the new sum is the old one plus the difference. An option may lie at an odd
      // offset, where its bytes count the other way round.
      const std::size_t sum_at = tcp.transport + kTcpChecksum;
      const auto swap = [odd = (at - tcp.transport) % 2 != 0](std::uint16_t value) {
        return odd ? static_cast<std::uint16_t>(value << 8 | value >> 8) : value;
      };
      const std::uint16_t before = swap(load_raw16(frame, at + 2));
      store16(frame, at + 2, mss);
      const std::uint16_t after = swap(load_raw16(frame, at + 2));
      const std::uint64_t sum = static_cast<std::uint16_t>(~load_raw16(frame, sum_at)) +
                                std::uint64_t{static_cast<std::uint16_t>(~before)} + after;
      store_raw16(frame, sum_at, checksum_finish(sum));
      return old;
    }
    at += length;
  }
  return std::nullopt;
}

void SegmentSizes::remember(std::span<const std::byte> frame, const TcpView& tcp,
                            std::uint16_t mss) {
  const std::uint32_t key = connection_key(frame, tcp, true);
  // A guest that asks for tiny segments makes work for itself alone, but within reason.
  entries_[key % entries_.size()] = {key, std::max(mss, kSmallest)};
}

std::uint16_t SegmentSizes::find(std::span<const std::byte> frame, const TcpView& tcp) const {
  const std::uint32_t key = connection_key(frame, tcp, false);
  const auto& entry = entries_[key % entries_.size()];
  return entry.key == key && entry.mss != 0 ? entry.mss : kFallback;
}

namespace {

// Puts the sum of the pseudo header where the checksum is, as for a checksum to be completed.
void store_pseudo_sum(std::span<std::byte> frame, const TcpView& tcp) {
  const std::size_t addresses = tcp.network + (tcp.ipv6 ? 8u : 12u);
  std::uint64_t sum = checksum_add(0, frame.subspan(addresses, tcp.ipv6 ? 32 : 8));
  const auto length = htonl(static_cast<std::uint32_t>(frame.size() - tcp.transport));
  sum += (length & 0xffff) + (length >> 16) + htons(IPPROTO_TCP);
  store_raw16(frame, tcp.transport + kTcpChecksum, fold(sum));
}

}  // namespace

Header prepare_large_segment(std::span<std::byte> frame, const TcpView& tcp, std::uint16_t mss) {
  Header header;
  header.flags = virtio_net::kNeedsCsum;
  header.gso_type = tcp.ipv6 ? virtio_net::kGsoTcp6 : virtio_net::kGsoTcp4;
  header.hdr_len = tcp.payload;
  header.gso_size = mss;
  header.csum_start = tcp.transport;
  header.csum_offset = kTcpChecksum;
  store_pseudo_sum(frame, tcp);
  return header;
}

void set_ip_length(std::span<std::byte> frame, const TcpView& tcp) {
  const std::size_t network = tcp.network;
  if (tcp.ipv6) {
    store16(frame, network + 4, static_cast<std::uint16_t>(frame.size() - network - kIpv6Header));
    return;
  }
  store16(frame, network + 2, static_cast<std::uint16_t>(frame.size() - network));
  store_raw16(frame, network + 10, 0);
  const auto ip = frame.subspan(network, tcp.transport - network);
  store_raw16(frame, network + 10, checksum_finish(checksum_add(0, ip)));
}

void cut_segment(std::span<const std::byte> frame, const TcpView& tcp, std::size_t offset,
                 std::size_t length, std::vector<std::byte>& piece) {
  const auto headers = frame.first(tcp.payload);
  const auto payload = frame.subspan(tcp.payload + offset, length);
  const bool last = tcp.payload + offset + length == frame.size();
  piece.assign(headers.begin(), headers.end());
  piece.insert(piece.end(), payload.begin(), payload.end());

  constexpr std::uint8_t kFin = 0x01, kPush = 0x08;
  const std::size_t sequence_at = tcp.transport + 4u;
  std::uint32_t sequence;
  std::memcpy(&sequence, &piece[sequence_at], sizeof sequence);
  sequence = htonl(ntohl(sequence) + static_cast<std::uint32_t>(offset));
  std::memcpy(&piece[sequence_at], &sequence, sizeof sequence);
  if (!last) piece[tcp.transport + kTcpFlags] &= ~std::byte{kFin | kPush};

  set_ip_length(piece, tcp);
  store_pseudo_sum(piece, tcp);
  const auto segment = std::span(piece).subspan(tcp.transport);
  store_raw16(piece, tcp.transport + kTcpChecksum, checksum_finish(checksum_add(0, segment)));
}

}  // namespace vmm::user_net
