// Sections: the saved states of a machine, each under the name of what it belongs to.
//
//   sections.put("serial", uart.save());            // saving
//   uart.restore(TRY(sections.take<UartState>("serial")));
//   TRY(sections.check_all_taken());                // a state left over is an error
//
// The bytes of a whole: a magic, then for each section name, kind, version and body; see
// snapshot/FORMAT.md. What to_bytes() makes was read again: a state that cannot be is its error.
#pragma once

#include <cstdint>
#include <optional>
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
  // What is wrong with it is told by to_bytes().
  template <typename State>
  void put(std::string_view name, const State& state) {
    auto made = section(name, state);
    if (made) {
      entries_.push_back({std::move(*made), false});
    } else if (!error_) {
      error_ = std::move(made.error());
    }
  }

  // In the place of the one of that name.
  template <typename State>
  Result<void> replace(std::string_view name, const State& state) {
    for (auto& entry : entries_) {
      if (entry.section.name != name) continue;
      entry = {TRY(section(name, state)), false};
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

  // Error: what was put cannot be read again.
  Result<std::vector<std::byte>> to_bytes() const;
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
  template <typename State>
  static Result<Section> section(std::string_view name, const State& state) {
    auto body = encode_readable(state);
    if (!body) return fail("state of {}: {}", name, body.error().message());
    return Section{std::string(name), std::string(State::kKind), State::kVersion, std::move(*body)};
  }
  Result<const Section*> claim(std::string_view name, std::string_view kind, std::uint32_t version);

  std::vector<Entry> entries_;
  std::optional<Error> error_;  // the first of put()
};

}  // namespace vmm::state
