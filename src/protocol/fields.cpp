#include "src/protocol/fields.h"

#include <cstring>
#include <limits>

namespace vmm::protocol {
namespace {

constexpr std::size_t kFieldHead = 5;      // number, length
constexpr std::size_t kMaxFields = 65536;  // of one message: arguments and environment

}  // namespace

void append_integer(std::string& out, std::uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

std::uint64_t read_integer(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

void FieldWriter::field(std::uint8_t number, std::string_view value) {
  append_integer(bytes_, number, 1);
  append_integer(bytes_, value.size(), 4);
  bytes_ += value;
}

Result<FieldReader> FieldReader::create(std::string_view bytes) {
  std::vector<Field> fields;
  while (!bytes.empty()) {
    if (bytes.size() < kFieldHead) return fail("{} bytes follow the last field", bytes.size());
    const auto number = static_cast<std::uint8_t>(bytes[0]);
    const std::uint64_t length = read_integer(bytes.substr(1, 4));
    bytes.remove_prefix(kFieldHead);
    if (length > bytes.size()) {
      return fail("field {} has {} bytes, expected at most {}", number, length, bytes.size());
    }
    if (fields.size() == kMaxFields) return fail("more than {} fields", kMaxFields);
    fields.emplace_back(number, bytes.substr(0, length));
    bytes.remove_prefix(length);
  }
  return FieldReader(std::move(fields));
}

void FieldReader::complain(std::uint8_t number, std::string_view what) {
  error_ = Error(fmt::format("field {}: {}", number, what));
}

void FieldReader::set(std::uint8_t number, std::string& text, std::string_view bytes) {
  if (bytes.contains('\0')) return complain(number, "a text with NUL in it");
  text = bytes;
}

void FieldReader::set(std::uint8_t, Bytes& value, std::string_view bytes) {
  value.resize(bytes.size());
  if (!bytes.empty()) std::memcpy(value.data(), bytes.data(), bytes.size());
}

std::optional<std::uint64_t> FieldReader::integer(std::uint8_t number, std::string_view bytes,
                                                  std::uint64_t limit) {
  if (bytes.size() != 8) {
    complain(number, fmt::format("a number of {} bytes, expected 8", bytes.size()));
    return std::nullopt;
  }
  const std::uint64_t value = read_integer(bytes);
  if (value > limit) {
    complain(number, fmt::format("invalid value {}, expected at most {}", value, limit));
    return std::nullopt;
  }
  return value;
}

}  // namespace vmm::protocol
