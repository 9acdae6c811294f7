#include "src/engine/cli/go_parser.h"

#include <cctype>
#include <charconv>

namespace vmm::engine::cli::go {
namespace {

constexpr int kMaxDepth = 64;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

std::string_view trim_start(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}
std::string_view trim_end(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// What stands between {{ and }}, or between actions.
struct Piece {
  bool is_action = false;
  std::string_view text;
};

Result<std::vector<Piece>> split_actions(std::string_view text) {
  std::vector<Piece> pieces;
  bool trims = false;
  while (true) {
    const auto open = text.find("{{");
    auto plain = text.substr(0, open);
    if (trims) plain = trim_start(plain);
    if (open == std::string_view::npos) {
      pieces.push_back({false, plain});
      return pieces;
    }
    text.remove_prefix(open + 2);
    if (text.size() > 1 && text[0] == '-' && is_space(text[1])) {
      plain = trim_end(plain);
      text.remove_prefix(1);
    }
    pieces.push_back({false, plain});
    // A text in quotes may have braces.
    std::size_t end = 0;
    for (char quote = 0; end < text.size(); ++end) {
      if (quote != 0) {
        if (text[end] == '\\' && quote == '"') {
          ++end;
        } else if (text[end] == quote) {
          quote = 0;
        }
      } else if (text[end] == '"' || text[end] == '`') {
        quote = text[end];
      } else if (text.substr(end).starts_with("}}")) {
        break;
      }
    }
    if (end >= text.size()) return fail("unclosed action");
    auto action = text.substr(0, end);
    text.remove_prefix(end + 2);
    trims = action.size() > 1 && action.back() == '-' && is_space(action[action.size() - 2]);
    if (trims) action.remove_suffix(1);
    pieces.push_back({true, trim_end(trim_start(action))});
  }
}

class PipelineParser {
 public:
  PipelineParser(std::string_view text, int depth) : text_(text), depth_(depth) {}

  Result<Pipeline> parse() {
    auto pipeline = TRY(parse_pipeline());
    if (!text_.empty()) return fail("unexpected \"{}\"", text_.substr(0, 20));
    return pipeline;
  }

 private:
  Result<Pipeline> parse_pipeline() {
    if (depth_ > kMaxDepth) return fail("parentheses are nested too deep");
    Pipeline pipeline;
    take_variables(pipeline);
    while (true) {
      std::vector<Operand> command;
      while (text_ = trim_start(text_), !text_.empty() && text_[0] != '|' && text_[0] != ')') {
        command.push_back(TRY(parse_operand()));
      }
      if (command.empty()) return fail("missing value for command");
      pipeline.commands.push_back(std::move(command));
      if (!take("|")) return pipeline;
    }
  }

  // `$a :=`, `$a, $b :=`
  void take_variables(Pipeline& pipeline) {
    const auto all = text_;
    std::vector<std::string> names;
    while (take("$")) {
      names.push_back(take_word());
      if (take(":=")) {
        pipeline.variables = std::move(names);
        return;
      }
      if (!take(",")) break;
    }
    text_ = all;
  }

  bool take(std::string_view token) {
    const auto trimmed = trim_start(text_);
    if (!trimmed.starts_with(token)) return false;
    text_ = trimmed.substr(token.size());
    return true;
  }

  std::string take_word() {
    std::size_t size = 0;
    while (size < text_.size() && is_word(text_[size])) ++size;
    std::string word(text_.substr(0, size));
    text_.remove_prefix(size);
    return word;
  }

  Result<Operand> parse_operand() {
    Operand operand;
    const char first = text_[0];
    if (first == '(') {
      text_.remove_prefix(1);
      ++depth_;
      operand.kind = Operand::Kind::pipeline;
      operand.pipeline.push_back(TRY(parse_pipeline()));
      --depth_;
      if (!take(")")) return fail("unclosed left paren");
    } else if (first == '"' || first == '`') {
      operand.kind = Operand::Kind::constant;
      operand.constant = TRY(parse_quoted(first));
    } else if (first == '$') {
      text_.remove_prefix(1);
      operand.kind = Operand::Kind::variable;
      operand.name = take_word();
    } else if (first == '-' || std::isdigit(static_cast<unsigned char>(first)) != 0) {
      std::int64_t number = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), number);
      if (error != std::errc{}) return fail("bad number syntax: \"{}\"", text_.substr(0, 20));
      text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
      operand.kind = Operand::Kind::constant;
      operand.constant = number;
    } else if (is_word(first)) {
      operand = word_operand(take_word());
    } else if (first != '.') {
      return fail("unexpected \"{}\"", text_.substr(0, 20));
    } else if (text_.size() == 1 || !is_word(text_[1])) {
      text_.remove_prefix(1);  // the dot alone
      return operand;
    }
    while (text_.size() > 1 && text_[0] == '.' && is_word(text_[1])) {
      text_.remove_prefix(1);
      operand.fields.push_back(take_word());
    }
    return operand;
  }

  static Operand word_operand(std::string word) {
    Operand operand;
    operand.kind = Operand::Kind::constant;
    if (word == "true" || word == "false") {
      operand.constant = word == "true";
    } else if (word != "nil") {
      operand.kind = Operand::Kind::function;
      operand.name = std::move(word);
    }
    return operand;
  }

  Result<std::string> parse_quoted(char quote) {
    std::string value;
    for (std::size_t i = 1; i < text_.size(); ++i) {
      char c = text_[i];
      if (c == quote) {
        text_.remove_prefix(i + 1);
        return value;
      }
      if (c == '\\' && quote == '"' && i + 1 < text_.size()) {
        c = text_[++i];
        if (c == 'n') c = '\n';
        if (c == 't') c = '\t';
      }
      value += c;
    }
    return fail("unterminated quoted string");
  }

  std::string_view text_;
  int depth_;
};

class Parser {
 public:
  explicit Parser(std::vector<Piece> pieces) : pieces_(std::move(pieces)) {}

  Result<std::vector<Node>> parse() {
    auto nodes = TRY(parse_list(0));
    if (at_ < pieces_.size()) return fail("unexpected {{{{{}}}}}", pieces_[at_].text);
    return nodes;
  }

 private:
  static bool ends_list(std::string_view word) { return word == "end" || word == "else"; }

  // Up to the {{end}} or {{else}} that closes it, or to the end.
  Result<std::vector<Node>> parse_list(int depth) {
    if (depth > kMaxDepth) return fail("actions are nested too deep");
    std::vector<Node> nodes;
    for (; at_ < pieces_.size(); ++at_) {
      const auto& piece = pieces_[at_];
      Node node;
      if (!piece.is_action) {
        if (piece.text.empty()) continue;
        node.text = piece.text;
      } else if (piece.text.starts_with("/*")) {
        continue;
      } else {
        const auto word = piece.text.substr(0, piece.text.find_first_of(" \t\n"));
        if (ends_list(word)) return nodes;
        node = TRY(parse_action(word, piece.text, depth));
      }
      nodes.push_back(std::move(node));
    }
    return nodes;
  }

  Result<Node> parse_action(std::string_view word, std::string_view text, int depth) {
    Node node;
    node.kind = word == "if"      ? Node::Kind::condition
                : word == "with"  ? Node::Kind::with
                : word == "range" ? Node::Kind::range
                                  : Node::Kind::action;
    if (node.kind != Node::Kind::action) text = trim_start(text.substr(word.size()));
    node.pipeline = TRY(PipelineParser(text, 0).parse());
    if (node.kind == Node::Kind::action) return node;
    ++at_;
    node.body = TRY(parse_list(depth + 1));
    if (at_ >= pieces_.size()) return fail("unexpected EOF");
    const auto closing = pieces_[at_].text;
    if (closing == "end") return node;
    const auto rest = trim_start(closing.substr(std::string_view("else").size()));
    if (rest.empty()) {
      ++at_;
      node.otherwise = TRY(parse_list(depth + 1));
      if (at_ >= pieces_.size() || pieces_[at_].text != "end") return fail("unexpected EOF");
      return node;
    }
    // {{else if}}: its {{end}} is the outer one, too.
    const auto next = rest.substr(0, rest.find_first_of(" \t\n"));
    if (next != "if" && next != "with") return fail("unexpected \"{}\" in else", rest);
    node.otherwise.push_back(TRY(parse_action(next, rest, depth + 1)));
    return node;
  }

  std::vector<Piece> pieces_;
  std::size_t at_ = 0;
};

}  // namespace

Result<std::vector<Node>> parse(std::string_view text) {
  return Parser(TRY(split_actions(text))).parse();
}

}  // namespace vmm::engine::cli::go
