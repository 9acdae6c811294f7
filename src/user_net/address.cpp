#include "src/user_net/address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "src/base/text.h"

namespace vmm::user_net {
namespace {

constexpr unsigned kMappedBits = 96;  // of ::ffff:0:0/96

}  // namespace

Result<Ipv4Address> Ipv4Address::parse(std::string_view text) {
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) {
    return fail("'{}' is not an IPv4 address such as 10.0.2.15", text);
  }
  return Ipv4Address{ntohl(address.s_addr)};
}

std::string Ipv4Address::text() const {
  return fmt::format("{}.{}.{}.{}", value >> 24, value >> 16 & 255, value >> 8 & 255, value & 255);
}

IpAddress IpAddress::load(std::span<const std::byte> from) {
  IpAddress address = Ipv4Address{};
  if (from.size() == address.bytes.size()) {
    std::memcpy(address.bytes.data(), from.data(), from.size());
  } else {
    std::memcpy(&address.bytes[12], from.data(), 4);
  }
  return address;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  IpAddress address;
  if (::inet_pton(AF_INET6, std::string(text).c_str(), address.bytes.data()) == 1) return address;
  if (const auto ipv4 = Ipv4Address::parse(text)) return IpAddress(*ipv4);
  return fail("'{}' is not an IP address such as 10.0.2.15 or fd00::1", text);
}

std::string IpAddress::text() const {
  if (is_ipv4()) return to_ipv4().text();
  std::array<char, INET6_ADDRSTRLEN> buffer;
  return ::inet_ntop(AF_INET6, bytes.data(), buffer.data(), buffer.size());
}

bool IpAddress::is_ipv4() const { return IpNetwork{Ipv4Address{}, kMappedBits}.contains(*this); }

Ipv4Address IpAddress::to_ipv4() const { return ipv4(bytes[12], bytes[13], bytes[14], bytes[15]); }

sockaddr_storage IpAddress::socket_address(std::uint16_t port) const {
  sockaddr_storage storage{};
  if (is_ipv4()) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(to_ipv4().value);
    std::memcpy(&storage, &address, sizeof address);
  } else {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    std::memcpy(&address.sin6_addr, bytes.data(), bytes.size());
    std::memcpy(&storage, &address, sizeof address);
  }
  return storage;
}

Result<IpNetwork> IpNetwork::parse(std::string_view text) {
  const auto slash = text.find('/');
  IpNetwork network;
  network.address = TRY(IpAddress::parse(text.substr(0, slash)));
  if (slash == std::string_view::npos) return network;
  const bool ipv4 = network.address.is_ipv4();
  network.prefix = static_cast<unsigned>(
      TRY(parse_number(text.substr(slash + 1), 0, ipv4 ? 32 : 128, "network prefix")));
  if (ipv4) network.prefix += kMappedBits;
  auto first = network.address;
  for (unsigned bit = network.prefix; bit < 128; ++bit) {
    first.bytes[bit / 8] &= static_cast<std::uint8_t>(~(0x80u >> bit % 8));
  }
  if (first != network.address) {
    return fail("'{}' is not a network: its address is {}", text, first.text());
  }
  return network;
}

std::string IpNetwork::text() const {
  return fmt::format("{}/{}", address.text(), address.is_ipv4() ? prefix - kMappedBits : prefix);
}

bool IpNetwork::contains(const IpAddress& other) const {
  const unsigned whole = prefix / 8, rest = prefix % 8;
  if (!std::equal(address.bytes.begin(), address.bytes.begin() + whole, other.bytes.begin())) {
    return false;
  }
  return rest == 0 || (address.bytes[whole] ^ other.bytes[whole]) >> (8 - rest) == 0;
}

}  // namespace vmm::user_net
