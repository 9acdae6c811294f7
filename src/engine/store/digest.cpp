#include "src/engine/store/digest.h"

#include <algorithm>
#include <array>

namespace vmm::engine {
namespace {

constexpr std::string_view kAlgorithm = "sha256:";
constexpr std::size_t kHexDigits = 64;

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

}  // namespace

Result<Digest> Digest::parse(std::string_view text) {
  if (!text.starts_with(kAlgorithm)) {
    return fail("invalid digest '{}': expected sha256:HEX", text.substr(0, 80));
  }
  const auto hex = text.substr(kAlgorithm.size());
  if (hex.size() != kHexDigits || !std::ranges::all_of(hex, is_hex)) {
    return fail("invalid digest '{}': expected sha256: and 64 hex digits", text.substr(0, 80));
  }
  return Digest(std::string(hex));
}

Digest Digest::of(std::string_view content) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span(content)));
  return hash.finish();
}

void Sha256::update(std::span<const std::byte> bytes) {
  sha256_update(&context_, bytes.size(), reinterpret_cast<const std::uint8_t*>(bytes.data()));
}

Digest Sha256::finish() {
  std::array<std::uint8_t, SHA256_DIGEST_SIZE> raw;
  sha256_digest(&context_, raw.size(), raw.data());
  std::string hex;
  for (const auto byte : raw) hex += fmt::format("{:02x}", byte);
  return Digest(std::move(hex));
}

}  // namespace vmm::engine
