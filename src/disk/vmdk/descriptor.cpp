#include "src/disk/vmdk/descriptor.h"

#include <algorithm>
#include <array>

#include "src/base/text.h"
#include "src/disk/disk.h"

namespace vmm::disk::vmdk {
namespace {

constexpr std::string_view kMagic = "# Disk DescriptorFile";
constexpr std::string_view kNoParent = "ffffffff";
constexpr std::array<std::string_view, 3> kAccesses = {"RW", "RDONLY", "NOACCESS"};
constexpr std::array<std::string_view, 2> kTypes = {"monolithicFlat", "twoGbMaxExtentFlat"};

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r";
  const auto first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

std::string_view unquote(std::string_view text) {
  if (text.size() < 2 || !text.starts_with('"') || !text.ends_with('"')) return text;
  return text.substr(1, text.size() - 2);
}

// The first word of `text`, which then begins behind it.
std::string_view take_word(std::string_view& text) {
  text = trim(text);
  const auto word = text.substr(0, text.find_first_of(" \t"));
  text.remove_prefix(word.size());
  return word;
}

// The text between quotation marks at the start of `text`. There are no escapes.
Result<std::string_view> take_quoted(std::string_view& text) {
  text = trim(text);
  const auto end = text.find('"', 1);
  if (!text.starts_with('"') || end == std::string_view::npos || end == 1) {
    return fail("a file name in quotation marks is missing");
  }
  const auto quoted = text.substr(1, end - 1);
  text.remove_prefix(end + 1);
  return quoted;
}

// RW SECTORS FLAT "FILE" [FIRST-SECTOR]
Result<Extent> parse_extent(std::string_view line) {
  constexpr std::uint64_t kMaxSectors = kMaxDiskSize / kSectorSize;
  if (const auto access = take_word(line); access != "RW") {
    return fail("an extent of access '{}' is not supported: RW is", access);
  }
  Extent extent;
  extent.length = kSectorSize * TRY(parse_number(take_word(line), 1, kMaxSectors, "size"));
  if (const auto type = take_word(line); type != "FLAT") {
    return fail("an extent of type '{}' is not supported: FLAT is", type);
  }
  extent.path = TRY(take_quoted(line));
  if (const auto first = take_word(line); !first.empty()) {
    extent.offset = kSectorSize * TRY(parse_number(first, 0, kMaxSectors, "first sector"));
  }
  if (!trim(line).empty()) return fail("'{}' at its end is not expected", trim(line));
  return extent;
}

Result<void> check_key(std::string_view line) {
  const auto equals = line.find('=');
  if (equals == std::string_view::npos) return fail("it is neither KEY=VALUE nor an extent");
  const auto key = trim(line.substr(0, equals));
  const auto value = unquote(trim(line.substr(equals + 1)));
  if (key == "version" && value != "1") return fail("version '{}' is not supported: 1 is", value);
  if (key == "parentCID" && value != kNoParent) return fail("a parent image is not supported");
  if (key == "createType" && std::ranges::find(kTypes, value) == kTypes.end()) {
    return fail("createType '{}' is not supported: {} and {} are", value, kTypes[0], kTypes[1]);
  }
  return {};  // what else there is describes a machine, not the disk's bytes
}

}  // namespace

Result<std::vector<Extent>> parse_descriptor(std::string_view text) {
  if (!text.starts_with(kMagic)) return fail("it does not begin with '{}'", kMagic);
  if (text.size() > kMaxDescriptor) return fail("it is longer than {} bytes", kMaxDescriptor);
  if (text.find('\0') != std::string_view::npos) return fail("there is a NUL in it");
  std::vector<Extent> extents;
  std::uint64_t size = 0;
  std::size_t number = 0;
  for (const std::string_view whole : split(text, '\n')) {
    const auto line = trim(whole);
    ++number;
    if (line.empty() || line.starts_with('#')) continue;
    auto rest = line;
    if (std::ranges::find(kAccesses, take_word(rest)) == kAccesses.end()) {
      if (const auto key = check_key(line); !key) {
        return fail("line {}: {}", number, key.error().message());
      }
      continue;
    }
    auto extent = parse_extent(line);
    if (!extent) return fail("line {}: {}", number, extent.error().message());
    size += extent->length;
    if (extents.size() == kMaxExtents) return fail("it has more than {} extents", kMaxExtents);
    if (size > kMaxDiskSize) return fail("its extents are more than {} bytes", kMaxDiskSize);
    extents.push_back(std::move(*extent));
  }
  if (extents.empty()) return fail("it has no extents");
  return extents;
}

}  // namespace vmm::disk::vmdk
