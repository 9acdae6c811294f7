// MacAddress: an Ethernet address as people write it, and made-up ones.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::net {

struct MacAddress {
  std::array<std::uint8_t, 6> bytes{};

  // "52:54:00:12:34:56". Refuses group addresses and zero, as no machine can have them.
  static Result<MacAddress> parse(std::string_view text);
  // Random, with the bit of locally administered addresses set.
  static MacAddress random();

  std::string text() const;
  friend bool operator==(const MacAddress&, const MacAddress&) = default;
};

}  // namespace vmm::net
