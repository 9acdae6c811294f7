// Hand-made frames for tests of the network process.
#pragma once

#include <cstring>
#include <string>

#include "src/user_net/address.h"
#include "src/user_net/offload.h"

namespace vmm::user_net::test {

inline std::string be16(std::size_t value) {
  return {static_cast<char>(value >> 8 & 255), static_cast<char>(value & 255)};
}
inline std::string bytes_of(const IpAddress& address) {
  const std::string all(reinterpret_cast<const char*>(address.bytes.data()), 16);
  return address.is_ipv4() ? all.substr(12) : all;
}
inline std::span<const std::byte> span_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

struct Ipv4Fields {
  std::uint8_t protocol = 17;
  IpAddress source = ipv4(10, 0, 2, 15);
  std::uint16_t id = 1;
  std::uint16_t place = 0;  // flags and offset
  std::string options = {};
};

inline std::string ipv4_frame(const IpAddress& destination, const std::string& payload,
                              const Ipv4Fields& fields = {}) {
  std::string ip(1, static_cast<char>(0x40 | (20 + fields.options.size()) / 4));
  ip += std::string(1, '\0') + be16(20 + fields.options.size() + payload.size()) + be16(fields.id) +
        be16(fields.place) + '\x40' + static_cast<char>(fields.protocol) + be16(0) +
        bytes_of(fields.source) + bytes_of(destination) + fields.options;
  const auto sum = checksum_finish(checksum_add(0, span_of(ip)));
  std::memcpy(ip.data() + 10, &sum, 2);
  return std::string(12, '\2') + be16(0x0800) + ip + payload;
}

inline std::string ipv6_frame(const IpAddress& destination, std::uint8_t next,
                              const std::string& payload) {
  const auto source = IpAddress::parse("fec0::15").value();
  return std::string(12, '\2') + be16(0x86dd) + std::string("\x60\0\0\0", 4) +
         be16(payload.size()) + static_cast<char>(next) + '\x40' + bytes_of(source) +
         bytes_of(destination) + payload;
}

inline std::string udp(std::uint16_t from, std::uint16_t to, const std::string& data = "x") {
  return be16(from) + be16(to) + be16(8 + data.size()) + be16(0) + data;
}
inline std::string tcp(std::uint16_t from, std::uint16_t to, std::uint8_t flags) {
  return be16(from) + be16(to) + std::string(8, '\0') + '\x50' + static_cast<char>(flags) +
         be16(65535) + be16(0) + be16(0);
}

}  // namespace vmm::user_net::test
