#include "src/hypervisor/state/sections.h"

#include <algorithm>

namespace vmm::state {
namespace {

// What all sections together are encoded as.
struct Whole {
  std::vector<Section> sections;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, sections);
  }
};

constexpr std::array<char, 8> kMagic = {'V', 'M', 'M', 'S', 'T', 'A', 'T', '1'};

}  // namespace

bool Sections::has(std::string_view name) const {
  return std::ranges::any_of(entries_, [&](const Entry& e) { return e.section.name == name; });
}

Result<const Section*> Sections::claim(std::string_view name, std::string_view kind,
                                       std::uint32_t version) {
  for (auto& entry : entries_) {
    auto& section = entry.section;
    if (section.name != name) continue;
    if (section.kind != kind) {
      return fail("the state of {} is one of a '{}', here it is a '{}'", name, section.kind, kind);
    }
    if (section.version != version) {
      return fail("the state of {} has version {}, this program reads version {}", name,
                  section.version, version);
    }
    if (entry.taken) return fail("the state of {} was already taken", name);
    entry.taken = true;
    return &section;
  }
  return fail("the state of {} is missing", name);
}

Result<void> Sections::check_all_taken() const {
  for (const auto& entry : entries_) {
    if (!entry.taken) {
      return fail("there is a state of '{}' (a '{}') that no device of this machine takes",
                  entry.section.name, entry.section.kind);
    }
  }
  return {};
}

Result<std::vector<std::byte>> Sections::to_bytes() const {
  if (error_) return std::unexpected(*error_);
  Whole whole;
  for (const auto& entry : entries_) whole.sections.push_back(entry.section);
  auto bytes = encode(whole);
  const auto magic = std::as_bytes(std::span(kMagic));
  bytes.insert(bytes.begin(), magic.begin(), magic.end());
  TRY(from_bytes(bytes));
  return bytes;
}

Result<Sections> Sections::from_bytes(std::span<const std::byte> bytes) {
  const auto magic = std::as_bytes(std::span(kMagic));
  if (bytes.size() < magic.size() || !std::ranges::equal(bytes.first(magic.size()), magic)) {
    return fail("these are no states of a machine: the magic is missing");
  }
  auto whole = TRY(decode<Whole>(bytes.subspan(magic.size())));
  std::vector<std::string_view> names;
  for (const auto& section : whole.sections) names.push_back(section.name);
  std::ranges::sort(names);
  if (const auto twice = std::ranges::adjacent_find(names); twice != names.end()) {
    return fail("the state of {} is there twice", *twice);
  }
  Sections sections;
  for (auto& section : whole.sections) sections.entries_.push_back({std::move(section), false});
  return sections;
}

}  // namespace vmm::state
