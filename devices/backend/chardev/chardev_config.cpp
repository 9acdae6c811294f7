#include "devices/backend/chardev/chardev_config.h"

#include <array>

#include "src/base/text.h"
#include "src/spec/items.h"

namespace vmm::chardev {
namespace {

struct Name {
  std::string_view text;
  Kind kind;
  bool takes_path;
};
constexpr std::array<Name, 5> kNames = {
    Name{"stdio", Kind::stdio, false}, Name{"none", Kind::none, false},
    Name{"pty", Kind::pty, false}, Name{"file", Kind::file, true},
    Name{"socket", Kind::socket, true}};

constexpr std::string_view kMaxKey = ",max=";
constexpr std::uint64_t kLeastMax = 64 << 10;

Result<void> check_max(std::uint64_t max) {
  if (max == 0 || max >= kLeastMax) return {};
  return fail("serial: invalid max '{}': expected {} or more, or off", format_size(max),
              format_size(kLeastMax));
}

Result<std::uint64_t> parse_max(std::string_view text) {
  if (text == "off") return 0;
  const auto max = TRY(parse_size(text));
  if (max == 0) return fail("serial: invalid max '0': no limit is max=off");
  TRY(check_max(max));
  return max;
}

}  // namespace

Result<SerialSpec> parse_serial_spec(std::string_view text) {
  if (text == "off") return SerialSpec{.kind = Kind::none, .path = {}};
  const auto colon = text.find(':');
  const auto word = text.substr(0, colon);
  const auto path = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  for (const auto& name : kNames) {
    if (name.text != word) continue;
    if (name.takes_path == path.empty()) {
      return fail("invalid serial '{}': expected {}{}", text, word,
                  name.takes_path ? ":PATH" : " without a path");
    }
    SerialSpec spec{.kind = name.kind, .path = std::string(path)};
    if (const auto at = spec.path.rfind(kMaxKey);
        spec.kind == Kind::file && at != std::string::npos) {
      spec.max = TRY(parse_max(std::string_view(spec.path).substr(at + kMaxKey.size())));
      spec.path.resize(at);
      if (spec.path.empty()) return fail("serial '{}': a path is missing", text);
    }
    return spec;
  }
  std::array<std::string_view, kNames.size()> words;
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = kNames[i].text;
  return fail("unknown serial kind '{}'{}: expected stdio, none, pty, file:PATH or socket:PATH",
              text, did_you_mean(word, words));
}

spec::Fields fields_of(SerialSpec& serial) {
  constexpr auto kKinds = [] {
    std::array<std::pair<std::string_view, Kind>, kNames.size()> kinds;
    for (std::size_t i = 0; i < kNames.size(); ++i) kinds[i] = {kNames[i].text, kNames[i].kind};
    return kinds;
  }();
  spec::Fields fields("serial");
  fields.add({"kind", "", ""}, spec::choice(serial.kind, kKinds));
  fields.add({"path", "", ""}, spec::text(serial.path));
  fields.add({"max", "", ""}, spec::size(serial.max));
  fields.check_with([&serial]() -> Result<void> {
    for (const auto& name : kNames) {
      if (name.kind != serial.kind || name.takes_path != serial.path.empty()) continue;
      return fail("serial kind '{}': expected {}", name.text,
                  name.takes_path ? "a path" : "no path");
    }
    return check_max(serial.max);
  });
  return fields;
}

}  // namespace vmm::chardev
