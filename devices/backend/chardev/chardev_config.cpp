#include "devices/backend/chardev/chardev_config.h"

#include <array>

#include "src/base/text.h"

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

}  // namespace

Result<SerialSpec> parse_serial_spec(std::string_view text) {
  const auto colon = text.find(':');
  const auto word = text.substr(0, colon);
  const auto path = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  for (const auto& name : kNames) {
    if (name.text != word) continue;
    if (name.takes_path == path.empty()) {
      return fail("serial '{}' is not right: {}{} is", text, word,
                  name.takes_path ? ":PATH" : " without a path");
    }
    return SerialSpec{name.kind, std::string(path)};
  }
  std::array<std::string_view, kNames.size()> words;
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = kNames[i].text;
  return fail("serial '{}' is not known: stdio, none, pty, file:PATH or socket:PATH is{}", text,
              did_you_mean(word, words));
}

std::string format_serial_spec(const SerialSpec& spec) {
  for (const auto& name : kNames) {
    if (name.kind != spec.kind) continue;
    return name.takes_path ? fmt::format("{}:{}", name.text, spec.path) : std::string(name.text);
  }
  return "stdio";
}

}  // namespace vmm::chardev
