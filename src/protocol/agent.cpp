#include "src/protocol/agent.h"

#include <algorithm>
#include <span>
#include <utility>

namespace vmm::protocol::agent {
namespace {

// "VMMA", version (2 bytes, little-endian), kind, 0, process.
constexpr std::array<std::byte, 4> kMagic = {std::byte{'V'}, std::byte{'M'}, std::byte{'M'},
                                             std::byte{'A'}};
constexpr std::size_t kVersionAt = 4, kKindAt = 6, kProcessAt = 8;
constexpr std::size_t kLengthSize = 4;

}  // namespace

HeaderBytes encode(const Header& header) {
  HeaderBytes bytes{};
  std::ranges::copy(kMagic, bytes.begin());
  bytes[kVersionAt] = static_cast<std::byte>(header.version);
  bytes[kVersionAt + 1] = static_cast<std::byte>(header.version >> 8);
  bytes[kKindAt] = static_cast<std::byte>(header.kind);
  std::ranges::copy(header.process, bytes.begin() + kProcessAt);
  return bytes;
}

Result<Header> decode_header(const HeaderBytes& bytes) {
  if (!std::ranges::equal(kMagic, std::span(bytes).first<4>())) {
    return fail("not a connection of the agent: it does not begin with 'VMMA'");
  }
  Header header;
  header.version =
      static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[kVersionAt]) |
                                 std::to_integer<unsigned>(bytes[kVersionAt + 1]) << 8);
  if (header.version != kVersion) {
    return fail("version {} of the agent's protocol, expected {}", header.version, kVersion);
  }
  const auto kind = std::to_integer<unsigned>(bytes[kKindAt]);
  if (kind > static_cast<unsigned>(Kind::last)) return fail("unknown kind {} of connection", kind);
  header.kind = static_cast<Kind>(kind);
  std::ranges::copy(std::span(bytes).subspan<kProcessAt>(), header.process.begin());
  return header;
}

std::string encode_message(std::uint8_t type, const std::string& fields) {
  std::string message;
  message.reserve(kLengthSize + 1 + fields.size());
  append_integer(message, fields.size() + 1, kLengthSize);
  append_integer(message, type, 1);
  return message + fields;
}

Result<std::optional<Message>> MessageReader::next() {
  const std::string_view left = std::string_view(bytes_).substr(taken_);
  const auto wait = [&]() -> std::optional<Message> {
    bytes_.erase(0, std::exchange(taken_, 0));
    return std::nullopt;
  };
  if (left.size() < kLengthSize) return wait();
  const std::uint64_t length = read_integer(left.substr(0, kLengthSize));
  if (length == 0 || length > kMaxMessage) {
    return fail("a message of {} bytes, expected 1 to {}", length, kMaxMessage);
  }
  if (left.size() - kLengthSize < length) return wait();
  taken_ += kLengthSize + length;
  return Message{static_cast<std::uint8_t>(left[kLengthSize]),
                 std::string(left.substr(kLengthSize + 1, length - 1))};
}

}  // namespace vmm::protocol::agent
