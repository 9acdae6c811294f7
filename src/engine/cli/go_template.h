// The part of Go's text/template that people type after --format, over JSON.
//
//   const auto text = TRY(GoTemplate::parse("{{range .Config.Env}}{{println .}}{{end}}"));
//   fmt::print("{}", TRY(text.render(object)));
//
// Actions: fields and variables, pipelines, if, else, with, range (lists and maps, with index),
// end, comments, {{- and -}}. Functions: and, eq, ge, gt, index, join, json, le, len, lower, lt,
// ne, not, or, pad, print, printf (%s %v %d %q), println, slice, split, table, title, truncate,
// upper.
#pragma once

#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::engine::cli {

namespace go {
struct Node;
}

class GoTemplate {
 public:
  static Result<GoTemplate> parse(std::string_view text);
  Result<std::string> render(const nlohmann::ordered_json& value) const;

  GoTemplate(GoTemplate&&) noexcept;
  ~GoTemplate();

 private:
  GoTemplate();
  std::unique_ptr<std::vector<go::Node>> nodes_;
};

// As Go prints it: maps as map[a:b], lists as [a b].
std::string go_text(const nlohmann::ordered_json& value);

}  // namespace vmm::engine::cli
