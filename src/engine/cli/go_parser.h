// The tree of a template, and the parser that makes it.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::engine::cli::go {

using Json = nlohmann::ordered_json;

struct Pipeline;

// One operand of a command: fields after a start.
struct Operand {
  enum class Kind : std::uint8_t { dot, variable, function, constant, pipeline };
  Kind kind = Kind::dot;
  std::string name;  // of a variable or function
  Json constant;
  std::vector<std::string> fields;  // .Config.Env
  std::vector<Pipeline> pipeline;   // in parentheses: one
};

struct Pipeline {
  std::vector<std::string> variables;          // that it sets
  std::vector<std::vector<Operand>> commands;  // each gets the result of the one before
};

struct Node {
  enum class Kind : std::uint8_t { text, action, condition, with, range };
  Kind kind = Kind::text;
  std::string text;
  Pipeline pipeline;
  std::vector<Node> body, otherwise;
};

Result<std::vector<Node>> parse(std::string_view text);

}  // namespace vmm::engine::cli::go
