// What the fuzzers of saved states share: a state out of the fuzzer's input, either as it is or as
// edits of a good one, which gets behind the first checks.
//
// Input: a byte, 0 for "as it is"; then the encoded state, or edits of five bytes each.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "src/hypervisor/state/sections.h"

namespace vmm::fuzz {

// One field of the encoded good state is changed: a byte of it, its length, or it is left out.
struct Edit {
  std::uint8_t field;  // by position, modulo their number
  std::uint8_t kind;   // % 4 == 0: `at` is the new length; == 1: left out; else: a byte
  std::uint16_t at;
  std::uint8_t value;
};
inline constexpr std::size_t kEditSize = 5;

inline std::vector<std::byte> apply_edits(std::span<const std::byte> good,
                                          std::span<const std::uint8_t> edits) {
  struct Field {
    std::uint16_t number = 0;
    std::vector<std::byte> bytes;
  };
  std::vector<Field> fields;
  while (!good.empty()) {
    auto& field = fields.emplace_back();
    std::uint32_t length = 0;
    std::memcpy(&field.number, good.data(), 2);
    std::memcpy(&length, good.data() + 2, 4);
    field.bytes.assign(good.begin() + 6, good.begin() + 6 + length);
    good = good.subspan(6 + length);
  }
  for (; edits.size() >= kEditSize && !fields.empty(); edits = edits.subspan(kEditSize)) {
    Edit edit{edits[0], edits[1], 0, edits[4]};
    std::memcpy(&edit.at, &edits[2], 2);
    auto& field = fields[edit.field % fields.size()];
    if (edit.kind % 4 == 0) {
      field.bytes.resize(edit.at);
    } else if (edit.kind % 4 == 1) {
      std::swap(field, fields.back());
      fields.pop_back();
    } else if (!field.bytes.empty()) {
      field.bytes[edit.at % field.bytes.size()] = std::byte{edit.value};
    }
  }
  std::vector<std::byte> bytes;
  for (const auto& field : fields) {
    const auto length = static_cast<std::uint32_t>(field.bytes.size());
    const auto at = bytes.size();
    bytes.resize(at + 6);
    std::memcpy(&bytes[at], &field.number, 2);
    std::memcpy(&bytes[at + 2], &length, 4);
    bytes.insert(bytes.end(), field.bytes.begin(), field.bytes.end());
  }
  return bytes;
}

inline std::vector<std::byte> state_bytes(std::span<const std::byte> good,
                                          std::span<const std::uint8_t> input) {
  if (input.empty()) return {good.begin(), good.end()};
  const auto rest = input.subspan(1);
  if (input[0] != 0) return apply_edits(good, rest);
  const auto bytes = std::as_bytes(rest);
  return {bytes.begin(), bytes.end()};
}

template <typename State>
std::optional<State> decoded(const State& good, std::span<const std::uint8_t> input) {
  auto state = state::decode<State>(state_bytes(state::encode(good), input));
  if (!state) return std::nullopt;
  return std::move(*state);
}

inline void require(bool condition) {
  if (!condition) __builtin_trap();
}

}  // namespace vmm::fuzz
