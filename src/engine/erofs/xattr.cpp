#include "src/engine/erofs/xattr.h"

#include <array>
#include <cstring>

#include "src/engine/erofs/format.h"

namespace vmm::erofs {
namespace {

struct Prefix {
  std::string_view text;
  std::uint8_t index;
  bool is_whole;  // the name ends with it
};
constexpr std::array<Prefix, 5> kPrefixes = {{{"user.", 1, false},
                                              {"system.posix_acl_access", 2, true},
                                              {"system.posix_acl_default", 3, true},
                                              {"trusted.", 4, false},
                                              {"security.", 6, false}}};
constexpr std::size_t kMaxValue = 65535;

const Prefix* prefix_of(std::string_view name) {
  for (const auto& prefix : kPrefixes) {
    if (prefix.is_whole ? name == prefix.text
                        : name.starts_with(prefix.text) && name.size() > prefix.text.size()) {
      return &prefix;
    }
  }
  return nullptr;
}

std::size_t padded(std::size_t size) { return (size + 3) / 4 * 4; }

std::size_t entry_size(const Xattr& xattr) {
  return padded(sizeof(XattrEntry) + xattr.name.size() - prefix_of(xattr.name)->text.size() +
                xattr.value.size());
}

}  // namespace

bool can_store(const Xattr& xattr) {
  const auto* prefix = prefix_of(xattr.name);
  return prefix != nullptr && xattr.name.size() - prefix->text.size() <= kMaxName &&
         xattr.name.find('\0') == std::string::npos && xattr.value.size() <= kMaxValue;
}

std::size_t xattr_size(const std::vector<Xattr>& xattrs) {
  if (xattrs.empty()) return 0;
  std::size_t size = sizeof(XattrHeader);
  for (const auto& xattr : xattrs) size += entry_size(xattr);
  return size;
}

void encode_xattrs(const std::vector<Xattr>& xattrs, std::span<std::byte> out) {
  std::size_t at = sizeof(XattrHeader);  // all zero: no filter, none is shared
  for (const auto& xattr : xattrs) {
    const auto* prefix = prefix_of(xattr.name);
    const auto name = std::string_view(xattr.name).substr(prefix->text.size());
    const XattrEntry entry{static_cast<std::uint8_t>(name.size()), prefix->index,
                           static_cast<std::uint16_t>(xattr.value.size())};
    std::memcpy(&out[at], &entry, sizeof entry);
    auto to = out.subspan(at + sizeof entry);
    name.copy(reinterpret_cast<char*>(to.data()), name.size());
    to = to.subspan(name.size());
    xattr.value.copy(reinterpret_cast<char*>(to.data()), xattr.value.size());
    at += entry_size(xattr);
  }
}

Result<std::vector<Xattr>> decode_xattrs(std::span<const std::byte> in) {
  std::vector<Xattr> xattrs;
  if (in.empty()) return xattrs;
  XattrHeader header;
  if (in.size() < sizeof header) return fail("extended attributes are cut off");
  std::memcpy(&header, in.data(), sizeof header);
  if (header.shared_count != 0) return fail("shared extended attributes are not supported");
  in = in.subspan(sizeof header);
  while (in.size() >= sizeof(XattrEntry)) {
    XattrEntry entry;
    std::memcpy(&entry, in.data(), sizeof entry);
    const auto size = padded(sizeof entry + entry.name_size + entry.value_size);
    if (size > in.size()) return fail("extended attributes are cut off");
    const auto* text = reinterpret_cast<const char*>(in.data()) + sizeof entry;
    for (const auto& prefix : kPrefixes) {
      if (prefix.index != entry.prefix) continue;
      xattrs.push_back({std::string(prefix.text) + std::string(text, entry.name_size),
                        std::string(text + entry.name_size, entry.value_size)});
      if (!can_store(xattrs.back())) return fail("an extended attribute has an invalid name");
    }
    in = in.subspan(size);
  }
  return xattrs;
}

}  // namespace vmm::erofs
