#include "src/user_net/fragments.h"

#include <algorithm>

#include "src/user_net/bytes.h"
#include "src/user_net/offload.h"
#include "src/user_net/packet.h"

namespace vmm::user_net {

bool Fragments::is_fragment(std::span<const std::byte> frame) {
  return frame.size() >= kEthernet + kIpv4Header && load16(frame, 12) == kTypeIpv4 &&
         (load16(frame, kEthernet + 6) & (kMoreFragments | kFragmentOffset)) != 0;
}

std::span<std::byte> Fragments::add(std::span<const std::byte> frame, std::int64_t now_ms) {
  const auto ip = frame.subspan(kEthernet);
  const std::size_t header = (load8(ip, 0) & 15u) * 4;
  const std::size_t total = load16(ip, 2);
  if (load8(ip, 0) >> 4 != 4 || header < kIpv4Header || total <= header || total > ip.size()) {
    return {};
  }
  const unsigned cut = load16(ip, 6);
  const bool more = (cut & kMoreFragments) != 0;
  const std::size_t offset = (cut & kFragmentOffset) * kUnit;
  const auto data = ip.subspan(header, total - header);
  if (more && data.size() % kUnit != 0) return {};
  if (header + offset + data.size() > kMostBytes) return {};

  Key key;
  std::ranges::copy(ip.subspan(4, 2), key.begin());
  std::ranges::copy(ip.subspan(12, 8), key.begin() + 2);
  key.back() = ip[9];
  Packet& packet = find(key, now_ms);

  const std::size_t first = offset / kUnit;
  const std::size_t last = (offset + data.size() - 1) / kUnit;
  bool sound = packet.end == 0 || (more && offset + data.size() < packet.end);
  for (std::size_t unit = first; unit <= last && sound; ++unit) sound = !packet.have[unit];
  if (!more) sound = sound && packet.payload.size() <= offset;
  if (!sound) {
    close(packet);
    return {};
  }
  for (std::size_t unit = first; unit <= last; ++unit) packet.have.set(unit);
  if (packet.payload.size() < offset + data.size()) packet.payload.resize(offset + data.size());
  std::ranges::copy(data, packet.payload.begin() + static_cast<std::ptrdiff_t>(offset));
  if (offset == 0) {
    const auto headers = frame.first(kEthernet + header);
    packet.headers.assign(headers.begin(), headers.end());
  }
  if (!more) packet.end = offset + data.size();
  return complete(packet);
}

std::span<std::byte> Fragments::complete(Packet& packet) {
  if (packet.end == 0 || packet.have.count() != (packet.end + kUnit - 1) / kUnit) return {};
  whole_ = std::move(packet.headers);
  whole_.insert(whole_.end(), packet.payload.begin(), packet.payload.end());
  close(packet);
  const auto ip = std::span(whole_).subspan(kEthernet);
  // The first fragment's header may be longer than another's, whose place was checked by its own.
  if (ip.size() > kMostBytes) return {};
  store16(ip, 2, static_cast<std::uint16_t>(ip.size()));
  store16(ip, 6, 0);
  store_raw16(ip, 10, 0);
  const std::size_t header = (load8(ip, 0) & 15u) * 4;
  store_raw16(ip, 10, checksum_finish(checksum_add(0, ip.first(header))));
  return whole_;
}

// The packet that is open for `key`, or the place of another one.
Fragments::Packet& Fragments::find(const Key& key, std::int64_t now_ms) {
  Packet* place = &packets_[0];
  for (auto& packet : packets_) {
    if (packet.open && packet.key == key) {
      if (now_ms - packet.since_ms < kPatienceMs) return packet;
      place = &packet;
      break;
    }
    const auto age = [](const Packet& p) { return p.open ? p.since_ms : -1; };
    if (age(packet) < age(*place)) place = &packet;
  }
  close(*place);
  place->open = true;
  place->key = key;
  place->since_ms = now_ms;
  return *place;
}

void Fragments::close(Packet& packet) { packet = Packet{}; }

std::size_t Fragments::size() const {
  std::size_t bytes = whole_.capacity();
  for (const auto& packet : packets_) {
    bytes += packet.headers.capacity() + packet.payload.capacity();
  }
  return bytes;
}

}  // namespace vmm::user_net
