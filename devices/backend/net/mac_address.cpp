#include "devices/backend/net/mac_address.h"

#include <sys/random.h>

#include <algorithm>
#include <charconv>

#include "src/base/text.h"

namespace vmm::net {

Result<MacAddress> MacAddress::parse(std::string_view text) {
  MacAddress mac;
  const auto parts = split(text, ':');
  bool right = parts.size() == mac.bytes.size();
  for (std::size_t i = 0; right && i < parts.size(); ++i) {
    const auto part = parts[i];
    const auto [end, code] =
        std::from_chars(part.data(), part.data() + part.size(), mac.bytes[i], 16);
    right = part.size() == 2 && code == std::errc{} && end == part.data() + part.size();
  }
  if (!right) {
    return fail("'{}' is not a MAC address: six pairs of hex digits are, such as {}", text,
                "52:54:00:12:34:56");
  }
  if ((mac.bytes[0] & 1) != 0) {
    return fail("'{}' is a group address: the first byte of a machine's MAC address is even", text);
  }
  if (mac == MacAddress{}) return fail("'{}' is not the MAC address of a machine", text);
  return mac;
}

MacAddress MacAddress::random() {
  MacAddress mac;
  // Never fails for so few bytes once the host's pool is ready, which it is before any login.
  (void)!::getrandom(mac.bytes.data(), mac.bytes.size(), 0);
  mac.bytes[0] = static_cast<std::uint8_t>((mac.bytes[0] & 0xfc) | 0x02);
  return mac;
}

std::string MacAddress::text() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2],
                     bytes[3], bytes[4], bytes[5]);
}

}  // namespace vmm::net
