// Digest: the name of a content, "sha256:" and 64 hex digits (OCI image-spec, descriptor.md).
//
//   Sha256 hash;
//   hash.update(bytes);
//   if (hash.finish() != expected) return fail("digest mismatch");
#pragma once

#include <nettle/sha2.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::engine {

class Digest {
 public:
  Digest() = default;  // of nothing; equal to no digest of a content
  // Error: another algorithm, or not 64 lower-case hex digits.
  static Result<Digest> parse(std::string_view text);
  static Digest of(std::string_view content);

  const std::string& hex() const { return hex_; }
  std::string short_hex() const { return hex_.substr(0, 12); }
  std::string text() const { return "sha256:" + hex_; }

  friend auto operator<=>(const Digest&, const Digest&) = default;
  friend bool operator==(const Digest&, const Digest&) = default;

 private:
  friend class Sha256;
  explicit Digest(std::string hex) : hex_(std::move(hex)) {}
  std::string hex_;
};

class Sha256 {
 public:
  Sha256() { sha256_init(&context_); }
  void update(std::span<const std::byte> bytes);
  Digest finish();  // once

 private:
  sha256_ctx context_{};
};

}  // namespace vmm::engine
