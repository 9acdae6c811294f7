// GuestAddress: a guest-physical address, not to be mixed up with host pointers or sizes.
#pragma once

#include <compare>
#include <cstdint>

namespace vmm {

struct GuestAddress {
  std::uint64_t value = 0;

  friend auto operator<=>(GuestAddress, GuestAddress) = default;
  friend GuestAddress operator+(GuestAddress a, std::uint64_t offset) { return {a.value + offset}; }
};

}  // namespace vmm
