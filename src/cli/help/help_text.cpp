#include "src/cli/help/help_text.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "src/base/text.h"

namespace vmm::cli {
namespace {

constexpr std::size_t kDefaultWidth = 80;
constexpr std::size_t kLeastWidth = 40;
constexpr std::size_t kMostWidth = 100;  // longer lines are harder to read
constexpr std::size_t kTextColumn = 26;  // of explanations, behind what they explain

class Writer {
 public:
  explicit Writer(std::size_t width) : width_(width), column_(std::min(kTextColumn, width / 3)) {}

  // Begins at `column` of the last line, and is indented by `indent` from the next one on.
  void text(std::string_view words, std::size_t indent) {
    bool begins = true;
    for (const auto word : split(words, ' ')) {
      if (word.empty()) continue;
      if (!begins && at() + 1 + word.size() > width_) {
        text_ += '\n';
        pad(indent);
      } else if (!begins) {
        text_ += ' ';
      }
      text_ += word;
      begins = false;
    }
    text_ += '\n';
  }

  void paragraph(std::string_view words) {
    text(words, 0);
    line();
  }

  void row(std::string_view term, std::string_view words) {
    pad(2);
    text_ += term;
    if (at() + 2 > column_) text_ += '\n';
    pad(column_);
    text(words, column_);
  }

  void title(std::string_view words) { text(fmt::format("{}:", words), 0); }
  void line() { text_ += '\n'; }
  void usage(std::string_view begin, std::string_view words) {
    text_ += begin;
    text(words, begin.size());
  }

  // Without the empty line at its end.
  std::string finish() && {
    while (text_.ends_with("\n\n")) text_.pop_back();
    return std::move(text_);
  }

 private:
  std::size_t at() const {
    const auto end = text_.rfind('\n');
    return text_.size() - (end == std::string::npos ? 0 : end + 1);
  }
  void pad(std::size_t column) { text_.append(column - std::min(at(), column), ' '); }

  std::string text_;
  std::size_t width_, column_;
};

std::string term_of(const Option& option) {
  std::string term = option.name;
  if (!option.short_name.empty()) term = option.short_name + ", " + term;
  if (!option.value.empty()) term += " " + option.value;
  return term;
}

void write_options(Writer& out, const OptionGroup& group) {
  if (group.options.empty()) return;
  out.title(group.title);
  for (const auto& option : group.options) out.row(term_of(option), option.text);
  out.line();
}

std::string as_sentence(std::string text) {
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text + ".";
}

std::string term_of(const Page& command) {
  return command.forms.empty() ? command.name
                               : fmt::format("{} {}", command.name, command.forms[0]);
}

}  // namespace

std::size_t output_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultWidth;
  return std::clamp<std::size_t>(size.ws_col, kLeastWidth, kMostWidth);
}

std::string help_text(const Page& program, std::span<const std::string> path, std::size_t width) {
  Writer out(width);
  std::string name = program.name;
  for (std::size_t i = 0; i < path.size(); ++i) {
    const auto& page = *find_page(program, path.first(i + 1));
    name += " " + page.name + (page.operand.empty() ? "" : " " + page.operand);
  }
  const Page& page = *find_page(program, path);
  std::string_view begin = "Usage: ";
  for (const auto& form : page.forms) {
    out.usage(begin, name + " " + form);
    begin = "       ";
  }
  if (page.forms.empty()) out.usage(begin, name + (page.commands.empty() ? "" : " COMMAND"));
  out.line();
  for (const auto& paragraph : page.description) out.paragraph(paragraph);
  if (page.description.empty()) out.paragraph(as_sentence(page.summary));
  if (!page.commands.empty()) {
    out.title("Commands");
    for (const auto& command : page.commands) out.row(term_of(command), command.summary);
    out.line();
  }
  for (const auto& group : page.groups) write_options(out, group);
  if (!path.empty()) {  // of the program's commands, each has a help of its own
    for (const auto& command : page.commands) {
      for (const auto& group : command.groups) {
        write_options(out, {fmt::format("Options of {}", command.name), group.options});
      }
    }
  }
  for (const auto& section : page.sections) {
    if (section.in == Section::In::manual) continue;
    out.title(section.title);
    for (const auto& paragraph : section.paragraphs) out.text(paragraph, 0);
    for (const auto& row : section.rows) out.row(row.term, row.text);
    out.line();
  }
  return std::move(out).finish();
}

std::string command_list(const Page& program, std::size_t width) {
  Writer out(width);
  for (const auto& command : program.commands) {
    out.row(fmt::format("{} {}", program.name, command.name), command.summary);
  }
  return std::move(out).finish();
}

}  // namespace vmm::cli
