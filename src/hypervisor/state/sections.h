// Sections: the saved states of a machine, each under the name of what it belongs to.
//
//   sections.put("serial", uart.save());            // saving
//   uart.restore(TRY(sections.take<UartState>("serial")));
//   TRY(sections.check_all_taken());                // a state left over is an error
//
// The bytes of a whole: a magic, then for each section name, kind, version and body; see
// snapshot/FORMAT.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/state/archive.h"

namespace vmm::state {

struct Section {
  std::string name;  // "blk0", unique
  std::string kind;  // "virtio-blk": says what the body is
  std::uint32_t version = 0;
  std::vector<std::byte> body;

  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, name);
    archive(2, kind);
    archive(3, version);
    archive(4, body);
  }
};

class Sections {
 public:
  template <typename State>
  void put(std::string_view name, const State& state) {
    entries_.push_back(
        {{std::string(name), std::string(State::kKind), State::kVersion, encode(state)}, false});
  }

  // In the place of the one of that name.
  template <typename State>
  Result<void> replace(std::string_view name, const State& state) {
    for (auto& entry : entries_) {
      if (entry.section.name != name) continue;
      entry = {{std::string(name), std::string(State::kKind), State::kVersion, encode(state)},
               false};
      return {};
    }
    return fail("the state of {} is missing", name);
  }

  // Once each. Errors name the section.
  template <typename State>
  Result<State> take(std::string_view name) {
    const auto* section = TRY(claim(name, State::kKind, State::kVersion));
    auto state = decode<State>(section->body);
    if (!state) return fail("state of {}: {}", name, state.error().message());
    return state;
  }

  bool has(std::string_view name) const;
  Result<void> check_all_taken() const;

  std::vector<std::byte> to_bytes() const;
  static Result<Sections> from_bytes(std::span<const std::byte> bytes);

  // For whoever shows them.
  template <typename F>
  void for_each(F visit) const {
    for (const auto& entry : entries_) visit(entry.section);
  }

 private:
  struct Entry {
    Section section;
    bool taken;
  };
  Result<const Section*> claim(std::string_view name, std::string_view kind, std::uint32_t version);

  std::vector<Entry> entries_;
};

}  // namespace vmm::state
