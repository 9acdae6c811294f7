#include "src/engine/cli/go_template.h"

#include <algorithm>
#include <cctype>

#include "src/base/text.h"
#include "src/engine/cli/go_functions.h"
#include "src/engine/cli/go_parser.h"

namespace vmm::engine::cli {
namespace go {
namespace {

constexpr std::size_t kMaxOutput = 64u << 20;

class Renderer {
 public:
  explicit Renderer(const Json& root) { variables_.emplace_back("", root); }

  Result<void> render(const std::vector<Node>& nodes, const Json& dot) {
    for (const auto& node : nodes) {
      const auto scope = variables_.size();
      TRY(render(node, dot));
      // Variables of {{with}} and the like end with it; those of an action stay.
      if (node.kind != Node::Kind::action) variables_.resize(scope, {"", Json()});
      if (text_.size() > kMaxOutput) return fail("the output is too long");
    }
    return {};
  }

  std::string take() { return std::move(text_); }

 private:
  Result<void> render(const Node& node, const Json& dot) {
    if (node.kind == Node::Kind::text) {
      text_ += node.text;
      return {};
    }
    const auto value = TRY(evaluate(node.pipeline, dot));
    switch (node.kind) {
      case Node::Kind::action:
        if (node.pipeline.variables.empty()) text_ += go_text(value);
        set_variables(node.pipeline, Json(), value);
        return {};
      case Node::Kind::range:
        return render_range(node, value, dot);
      default:
        set_variables(node.pipeline, Json(), value);
        if (!is_true(value)) return render(node.otherwise, dot);
        return render(node.body, node.kind == Node::Kind::with ? value : dot);
    }
  }

  Result<void> render_range(const Node& node, const Json& value, const Json& dot) {
    if (!value.is_null() && !value.is_structured()) {
      return fail("range can't iterate over {}", go_text(value));
    }
    if (value.empty()) return render(node.otherwise, dot);
    const auto scope = variables_.size();
    std::size_t number = 0;
    std::map<std::string, const Json*> sorted;  // as Go goes through a map
    if (value.is_object()) {
      for (const auto& [key, item] : value.items()) sorted[key] = &item;
      for (const auto& [key, item] : sorted) {
        set_variables(node.pipeline, key, *item);
        TRY(render(node.body, *item));
        variables_.resize(scope, {"", Json()});
      }
      return {};
    }
    for (const auto& item : value) {
      set_variables(node.pipeline, number++, item);
      TRY(render(node.body, item));
      variables_.resize(scope, {"", Json()});
    }
    return {};
  }

  void set_variables(const Pipeline& pipeline, const Json& key, const Json& value) {
    if (pipeline.variables.size() == 2) variables_.emplace_back(pipeline.variables[0], key);
    if (!pipeline.variables.empty()) variables_.emplace_back(pipeline.variables.back(), value);
  }

  Result<Json> evaluate(const Pipeline& pipeline, const Json& dot) {
    Json value;
    bool is_first = true;
    for (const auto& command : pipeline.commands) {
      std::vector<Json> arguments;
      const auto& first = command[0];
      const bool calls = first.kind == Operand::Kind::function;
      for (std::size_t i = calls ? 1 : 0; i < command.size(); ++i) {
        arguments.push_back(TRY(evaluate(command[i], dot)));
      }
      if (!is_first) arguments.push_back(std::move(value));
      if (calls) {
        value = TRY(walk(TRY(call(first.name, arguments)), first.fields));
      } else if (arguments.size() != 1) {
        return fail("can't give argument to non-function");
      } else {
        value = std::move(arguments[0]);
      }
      is_first = false;
    }
    return value;
  }

  Result<Json> evaluate(const Operand& operand, const Json& dot) {
    switch (operand.kind) {
      case Operand::Kind::dot:
        return walk(dot, operand.fields);
      case Operand::Kind::variable: {
        const auto found = std::find_if(variables_.rbegin(), variables_.rend(),
                                        [&](const auto& one) { return one.first == operand.name; });
        if (found == variables_.rend()) return fail("undefined variable \"${}\"", operand.name);
        return walk(found->second, operand.fields);
      }
      case Operand::Kind::function:
        return walk(TRY(call(operand.name, {})), operand.fields);
      case Operand::Kind::constant:
        return operand.constant;
      case Operand::Kind::pipeline:
        return walk(TRY(evaluate(operand.pipeline[0], dot)), operand.fields);
    }
    return Json();
  }

  static Result<Json> walk(const Json& start, const std::vector<std::string>& fields) {
    const Json* value = &start;
    static const Json none;
    for (const auto& field : fields) {
      if (value->is_null()) return Json();  // as a field of a map that has it not
      if (!value->is_object())
        return fail("can't evaluate field {} in {}", field, value->type_name());
      const auto found = value->find(field);
      value = found == value->end() ? &none : &*found;
    }
    return *value;
  }

  std::string text_;
  std::vector<std::pair<std::string, Json>> variables_;  // the innermost last; "" is $
};

}  // namespace
}  // namespace go

GoTemplate::GoTemplate() = default;
GoTemplate::GoTemplate(GoTemplate&&) noexcept = default;
GoTemplate::~GoTemplate() = default;

Result<GoTemplate> GoTemplate::parse(std::string_view text) {
  auto nodes = go::parse(text);
  if (!nodes) return fail("template parsing error: template: {}", nodes.error().message());
  GoTemplate result;
  result.nodes_ = std::make_unique<std::vector<go::Node>>(std::move(*nodes));
  return result;
}

Result<std::string> GoTemplate::render(const nlohmann::ordered_json& value) const {
  go::Renderer renderer(value);
  if (const auto done = renderer.render(*nodes_, value); !done) {
    return fail("template: {}", done.error().message());
  }
  return renderer.take();
}

std::string go_text(const nlohmann::ordered_json& value) {
  if (value.is_null()) return "<no value>";
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_structured()) return value.dump();
  std::string text = value.is_object() ? "map[" : "[";
  auto add = [&text, is_first = true](const std::string& item) mutable {
    text += (is_first ? "" : " ") + item;
    is_first = false;
  };
  if (value.is_object()) {
    std::map<std::string, std::string> sorted;
    for (const auto& [key, item] : value.items()) sorted[key] = go_text(item);
    for (const auto& [key, item] : sorted) add(key + ":" + item);
  } else {
    for (const auto& item : value) add(go_text(item));
  }
  return text + "]";
}

}  // namespace vmm::engine::cli
