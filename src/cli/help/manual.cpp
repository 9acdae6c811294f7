#include "src/cli/help/manual.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <string_view>

#include "src/base/text.h"

namespace vmm::cli {
namespace {

// Of text: no character that roff reads otherwise. A minus stays one when it is copied out of the
// page.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '\'':
        out += "\\(aq";
        break;
      case '"':
        out += "\\(dq";
        break;
      case '^':
        out += "\\(ha";
        break;
      case '~':
        out += "\\(ti";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// The same of prose, where a hyphen is one and `code` is bold.
std::string prose(std::string_view text) {
  std::string out;
  bool code = false;
  for (const auto part : split(text, '`')) {
    if (code) {
      out += fmt::format("\\fB{}\\fP", escaped(part));
    } else {
      for (const auto word : split(part, ' ')) {
        const bool is_option = word.starts_with('-') || word.find("--") != std::string_view::npos;
        if (is_option) {
          out += escaped(word);
        } else {
          for (const char c : word) out += c == '-' ? std::string("-") : escaped({&c, 1});
        }
        out += ' ';
      }
      out.pop_back();
    }
    code = !code;
  }
  return out;
}

constexpr std::size_t kLineLength = 78;

class PageWriter {
 public:
  // .NAME WORD...; a word is an argument as it is, never a macro.
  void macro(std::string_view name, std::string_view words = "") {
    text_ += fmt::format(".{}", name);
    for (const auto word : split(words, ' ')) {
      if (!word.empty()) text_ += fmt::format(" {}", word);
    }
    text_ += '\n';
  }
  void raw(std::string_view line) { text_ += fmt::format("{}\n", line); }

  // Each sentence begins a line, as roff wants it.
  void text(std::string_view words) {
    const auto all = prose(words);
    std::string line;
    const auto end_line = [&] {
      if (line.starts_with('.')) line.insert(0, "\\&");
      raw(line);
      line.clear();
    };
    for (const auto& word : split(all, ' ')) {
      if (!line.empty() && line.size() + 1 + word.size() > kLineLength) end_line();
      if (!line.empty()) line += ' ';
      line += word;
      if (word.ends_with('.')) end_line();
    }
    if (!line.empty()) end_line();
  }
  std::string finish() && { return std::move(text_); }

 private:
  std::string text_;
};

// "PATH [SIZE]" as an argument of macros: each word set apart from macros' names.
std::string literal(std::string_view words) {
  std::string out;
  for (const auto word : split(words, ' ')) {
    if (!out.empty()) out += ' ';
    out += "\\&" + escaped(word);
  }
  return out;
}

void write_options(PageWriter& out, const std::vector<Option>& options) {
  out.raw(".Bl -tag -width Ds");
  for (const auto& option : options) {
    std::string line = ".It Fl " + escaped(option.name.substr(1));
    if (!option.short_name.empty()) {
      line = fmt::format(".It Fl {} , Fl {}", escaped(option.short_name.substr(1)),
                         escaped(option.name.substr(1)));
    }
    if (!option.value.empty()) line += " Ar " + literal(option.value);
    out.raw(line);
    out.text(option.text + (option.repeatable ? "; may be given more than once" : ""));
  }
  out.raw(".El");
}

void write_paragraphs(PageWriter& out, const std::vector<std::string>& paragraphs) {
  for (std::size_t i = 0; i < paragraphs.size(); ++i) {
    if (i > 0) out.raw(".Pp");
    out.text(paragraphs[i]);
  }
}

void write_rows(PageWriter& out, const Section& section) {
  if (section.rows.empty()) return;
  out.raw(".Bl -tag -width Ds");
  for (const auto& row : section.rows) {
    out.macro("It", "Cm " + literal(row.term));
    out.text(row.text);
  }
  out.raw(".El");
}

// Forms of a command as items of a list or of the synopsis: `command` has its names.
std::string usage_of(const std::string& command, std::string_view form) {
  std::string line = "Cm " + literal(command);
  if (!form.empty()) line += " Ar " + literal(form);
  return line;
}

void write_command(PageWriter& out, const std::string& before, const Page& page) {
  out.macro("It", usage_of(before + page.name, page.forms.empty() ? "" : page.forms[0]));
  out.text(page.summary);
  for (const auto& group : page.groups) write_options(out, group.options);
}

void write_group(PageWriter& out, const std::string& program, const Page& page) {
  out.macro("Ss", literal(program + " " + page.name));
  write_paragraphs(out, page.description);
  for (const auto& group : page.groups) write_options(out, group.options);
  if (!page.commands.empty()) {
    out.raw(".Bl -tag -width Ds");
    const auto before = page.name + " " + (page.operand.empty() ? "" : page.operand + " ");
    for (const auto& command : page.commands) write_command(out, before, command);
    out.raw(".El");
  }
  for (const auto& section : page.sections) {
    out.raw(".Pp");
    out.text(section.title + ":");
    write_paragraphs(out, section.paragraphs);
    write_rows(out, section);
  }
}

}  // namespace

std::string manual(const Page& program, const std::string& date) {
  PageWriter out;
  out.raw(".Dd " + date);
  out.raw(".Dt VMM 1");
  out.raw(".Os");
  out.raw(".Sh NAME");
  out.raw(".Nm " + program.name);
  out.raw(".Nd " + prose(program.summary));
  out.raw(".Sh SYNOPSIS");
  for (const auto& form : program.forms) {
    out.raw(".Nm");
    out.raw(".Ar " + literal(form));
  }
  for (const auto& command : program.commands) {
    out.raw(".Nm");
    const auto operand = command.operand.empty() ? "" : command.operand + " ";
    const auto form = !command.commands.empty() ? operand + "COMMAND ..."
                      : command.forms.empty()   ? std::string()
                                                : command.forms[0];
    out.raw("." + usage_of(command.name, form));
  }
  out.raw(".Sh DESCRIPTION");
  write_paragraphs(out, program.description);
  out.raw(".Sh OPTIONS");
  for (const auto& group : program.groups) {
    out.macro("Ss", literal(group.title));
    write_options(out, group.options);
  }
  out.raw(".Sh COMMANDS");
  for (const auto& command : program.commands) write_group(out, program.name, command);
  for (const auto& section : program.sections) {
    std::string title = section.title;
    for (char& c : title) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    out.macro("Sh", prose(title));
    write_paragraphs(out, section.paragraphs);
    write_rows(out, section);
  }
  return std::move(out).finish();
}

std::string manual_date() {
  std::time_t now = std::time(nullptr);
  if (const char* epoch = std::getenv("SOURCE_DATE_EPOCH")) {
    const std::string_view text = epoch;
    (void)std::from_chars(text.data(), text.data() + text.size(), now);  // else today
  }
  std::tm day{};
  ::gmtime_r(&now, &day);
  constexpr std::array<std::string_view, 12> kMonths = {
      "January", "February", "March",     "April",   "May",      "June",
      "July",    "August",   "September", "October", "November", "December"};
  return fmt::format("{} {}, {}", kMonths.at(static_cast<std::size_t>(day.tm_mon)), day.tm_mday,
                     day.tm_year + 1900);
}

}  // namespace vmm::cli
