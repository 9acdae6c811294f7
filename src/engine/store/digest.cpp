#include "src/engine/store/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <new>

namespace vmm::engine {
namespace {

constexpr std::string_view kAlgorithm = "sha256:";
constexpr std::size_t kHexDigits = 64;

EVP_MD_CTX* as_context(void* context) { return static_cast<EVP_MD_CTX*>(context); }

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

void Sha256::Free::operator()(void* context) const { EVP_MD_CTX_free(as_context(context)); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr ||
      EVP_DigestInit_ex(as_context(context_.get()), EVP_sha256(), nullptr) != 1) {
    throw std::bad_alloc();  // it fails for nothing else
  }
}

void Sha256::update(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(as_context(context_.get()), bytes.data(), bytes.size());
}

Digest Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw;
  unsigned size = 0;
  EVP_DigestFinal_ex(as_context(context_.get()), raw.data(), &size);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", raw[i]);
  return Digest(std::move(hex));
}

}  // namespace vmm::engine
