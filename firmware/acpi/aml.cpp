#include "firmware/acpi/aml.h"

#include <algorithm>
#include <initializer_list>

#include "firmware/little_endian.h"

namespace vmm::acpi::aml {
namespace {

// ACPI 6.5, table 20.2.
enum Op : std::uint8_t {
  kZero = 0x00,
  kOne = 0x01,
  kName = 0x08,
  kBytePrefix = 0x0a,
  kWordPrefix = 0x0b,
  kDwordPrefix = 0x0c,
  kStringPrefix = 0x0d,
  kQwordPrefix = 0x0e,
  kScope = 0x10,
  kBuffer = 0x11,
  kPackage = 0x12,
  kMethod = 0x14,
  kDualName = 0x2e,
  kMultiName = 0x2f,
  kExtended = 0x5b,
  kRoot = 0x5c,
  kLocal0 = 0x60,
  kStore = 0x70,
  kAnd = 0x7b,
  kNotify = 0x86,
  kIf = 0xa0,
};
// After kExtended.
enum ExtendedOp : std::uint8_t { kOperationRegion = 0x80, kField = 0x81, kDevice = 0x82 };

constexpr std::uint8_t kFieldNoLockWriteAsZeros = 2 << 5;

std::byte byte_of(unsigned value) { return static_cast<std::byte>(value); }

void append(Aml& code, const Aml& more) { code.insert(code.end(), more.begin(), more.end()); }

Aml join(std::initializer_list<Aml> parts) {
  Aml code;
  for (const Aml& part : parts) append(code, part);
  return code;
}

Aml join(const Terms& parts) {
  Aml code;
  for (const Aml& part : parts) append(code, part);
  return code;
}

Aml opcode(unsigned op) { return {byte_of(op)}; }
Aml extended(unsigned op) { return {byte_of(kExtended), byte_of(op)}; }

// PkgLength (20.2.4) of `length` bytes or bits: the two top bits of the first byte count the bytes
// that follow; with none, six bits of length, else four in the first byte and eight in each other.
Aml encoded_length(std::size_t length) {
  if (length < 1u << 6) return {byte_of(static_cast<unsigned>(length))};
  unsigned more = 1;
  while (more < 3 && length >> (4 + 8 * more) != 0) ++more;
  Aml code = {byte_of(more << 6 | static_cast<unsigned>(length & 0xf))};
  for (unsigned i = 0; i < more; ++i) {
    code.push_back(byte_of(static_cast<unsigned>(length >> (4 + 8 * i) & 0xff)));
  }
  return code;
}

// The length in front of a body counts itself too.
Aml with_length(const Aml& body) {
  std::size_t own = 1;
  while (encoded_length(body.size() + own).size() > own) ++own;
  return join({encoded_length(body.size() + own), body});
}

Aml segment(std::string_view name) {
  Aml code;
  for (std::size_t i = 0; i < 4; ++i) {
    code.push_back(i < name.size() ? static_cast<std::byte>(name[i]) : std::byte{'_'});
  }
  return code;
}

unsigned hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  return 16;
}

}  // namespace

bool is_name_segment(std::string_view name) {
  const auto upper = [](char c) { return (c >= 'A' && c <= 'Z') || c == '_'; };
  return name.size() == 4 && upper(name[0]) &&
         std::ranges::all_of(name, [&](char c) { return upper(c) || (c >= '0' && c <= '9'); });
}

bool is_eisa_id(std::string_view id) {
  return id.size() == 7 &&
         std::ranges::all_of(id.substr(0, 3), [](char c) { return c >= 'A' && c <= 'Z'; }) &&
         std::ranges::all_of(id.substr(3),
                             [](char c) { return hex_digit(c) < 16 && (c < 'a' || c > 'f'); });
}

Aml integer(std::uint64_t value) {
  if (value == 0) return opcode(kZero);
  if (value == 1) return opcode(kOne);
  Aml code;
  if (value <= UINT8_MAX) {
    code = {byte_of(kBytePrefix), static_cast<std::byte>(value)};
  } else if (value <= UINT16_MAX) {
    code = opcode(kWordPrefix);
    append_le(code, static_cast<std::uint16_t>(value));
  } else if (value <= UINT32_MAX) {
    code = opcode(kDwordPrefix);
    append_le(code, static_cast<std::uint32_t>(value));
  } else {
    code = opcode(kQwordPrefix);
    append_le(code, value);
  }
  return code;
}

Aml string(std::string_view text) {
  Aml code = opcode(kStringPrefix);
  for (char c : text) code.push_back(static_cast<std::byte>(c));
  code.push_back(std::byte{0});
  return code;
}

Aml buffer(std::span<const std::byte> bytes) {
  Aml body = integer(bytes.size());
  body.insert(body.end(), bytes.begin(), bytes.end());
  return join({opcode(kBuffer), with_length(body)});
}

Aml package(const Terms& elements) {
  const Aml count = {static_cast<std::byte>(elements.size())};
  return join({opcode(kPackage), with_length(join({count, join(elements)}))});
}

Aml eisa_id(std::string_view id) {
  // 19.6.36: five bits a letter, big-endian, then the four digits.
  unsigned letters = 0;
  unsigned digits = 0;
  for (char c : id.substr(0, 3)) letters = letters << 5 | (static_cast<unsigned>(c - 'A' + 1) & 31);
  for (char c : id.substr(3, 4)) digits = digits << 4 | (hex_digit(c) & 15);
  return {byte_of(kDwordPrefix), byte_of(letters >> 8 & 0xff), byte_of(letters & 0xff),
          byte_of(digits >> 8 & 0xff), byte_of(digits & 0xff)};
}

Aml path(std::string_view path) {
  Aml code;
  if (path.starts_with('\\')) {
    code.push_back(byte_of(kRoot));
    path.remove_prefix(1);
  }
  Terms segments;
  while (!path.empty()) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    segments.push_back(segment(path.substr(0, dot)));
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  if (segments.empty()) code.push_back(byte_of(kZero));  // the root itself, or no target
  if (segments.size() == 2) code.push_back(byte_of(kDualName));
  if (segments.size() > 2) {
    code.push_back(byte_of(kMultiName));
    code.push_back(static_cast<std::byte>(segments.size()));
  }
  append(code, join(segments));
  return code;
}

Aml name(std::string_view at, const Aml& value) { return join({opcode(kName), path(at), value}); }

Aml scope(std::string_view at, const Terms& body) {
  return join({opcode(kScope), with_length(join({path(at), join(body)}))});
}

Aml device(std::string_view at, const Terms& body) {
  return join({extended(kDevice), with_length(join({path(at), join(body)}))});
}

Aml method(std::string_view at, unsigned arguments, Serialized serialized, const Terms& body) {
  const Aml flags = {byte_of((arguments & 7) | (serialized == Serialized::yes ? 1u << 3 : 0))};
  return join({opcode(kMethod), with_length(join({path(at), flags, join(body)}))});
}

Aml operation_region(std::string_view at, Space space, std::uint64_t offset, std::uint64_t size) {
  return join({extended(kOperationRegion), path(at), opcode(static_cast<unsigned>(space)),
               integer(offset), integer(size)});
}

Aml field(std::string_view region, Access access, std::span<const FieldUnit> units) {
  Aml body = path(region);
  body.push_back(byte_of(static_cast<unsigned>(access) | kFieldNoLockWriteAsZeros));
  for (const FieldUnit& unit : units) {
    append(body, segment(unit.name));
    append(body, encoded_length(unit.bits));
  }
  return join({extended(kField), with_length(body)});
}

Aml local(unsigned index) { return opcode(kLocal0 + index % 8); }

Aml store(const Aml& source, const Aml& target) { return join({opcode(kStore), source, target}); }

Aml bit_and(const Aml& a, const Aml& b) { return join({opcode(kAnd), a, b, path("")}); }

Aml if_then(const Aml& condition, const Terms& body) {
  return join({opcode(kIf), with_length(join({condition, join(body)}))});
}

Aml notify(std::string_view object, std::uint8_t value) {
  return join({opcode(kNotify), path(object), integer(value)});
}

Resource io_ports(std::uint16_t base, std::uint8_t size) {
  Aml code = {byte_of(0x47), byte_of(1)};  // 6.4.2.5; 16 address lines are decoded
  append_le(code, base);
  append_le(code, base);
  code.push_back(byte_of(1));  // alignment
  code.push_back(byte_of(size));
  return {code};
}

Resource memory32_fixed(std::uint32_t base, std::uint32_t size) {
  Aml code = {byte_of(0x86)};  // 6.4.3.4
  append_le(code, std::uint16_t{9});
  code.push_back(byte_of(1));  // writable
  append_le(code, base);
  append_le(code, size);
  return {code};
}

Resource interrupt(std::uint32_t gsi, Trigger trigger, Polarity polarity) {
  Aml code = {byte_of(0x89)};  // 6.4.3.6
  append_le(code, std::uint16_t{6});
  // Consumer, exclusive.
  code.push_back(
      byte_of(1 | static_cast<unsigned>(trigger) << 1 | static_cast<unsigned>(polarity) << 2));
  code.push_back(byte_of(1));  // one interrupt
  append_le(code, gsi);
  return {code};
}

namespace {

enum class RangeType : std::uint8_t { memory = 0, bus = 2 };

// 6.4.3.5: positive decode, both ends fixed, no granularity, no translation.
template <typename T>
Resource address_space(unsigned tag, RangeType type, Usage usage, unsigned type_flags, T first,
                       T last) {
  Aml code = {byte_of(tag)};
  append_le(code, static_cast<std::uint16_t>(3 + 5 * sizeof(T)));
  code.push_back(byte_of(static_cast<unsigned>(type)));
  code.push_back(byte_of(static_cast<unsigned>(usage) | 1u << 2 | 1u << 3));
  code.push_back(byte_of(type_flags));
  append_le(code, T{0});
  append_le(code, first);
  append_le(code, last);
  append_le(code, T{0});
  append_le(code, static_cast<T>(last - first + 1));
  return {code};
}

constexpr unsigned kReadWriteNonCacheable = 1;

}  // namespace

Resource bus_numbers(std::uint16_t first, std::uint16_t last) {
  return address_space<std::uint16_t>(0x88, RangeType::bus, Usage::producer, 0, first, last);
}
Resource memory32(Usage usage, std::uint32_t first, std::uint32_t last) {
  return address_space<std::uint32_t>(0x87, RangeType::memory, usage, kReadWriteNonCacheable, first,
                                      last);
}
Resource memory64(Usage usage, std::uint64_t first, std::uint64_t last) {
  return address_space<std::uint64_t>(0x8a, RangeType::memory, usage, kReadWriteNonCacheable, first,
                                      last);
}

Aml resource_template(const std::vector<Resource>& resources) {
  Aml code;
  for (const Resource& resource : resources) append(code, resource.bytes);
  // 6.4.2.9: the end, with a checksum of zero, which is "not computed".
  append(code, {byte_of(0x79), byte_of(0)});
  return buffer(code);
}

}  // namespace vmm::acpi::aml
