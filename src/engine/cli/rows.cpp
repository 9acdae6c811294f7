#include "src/engine/cli/rows.h"

#include <algorithm>

#include "src/base/text.h"
#include "src/engine/cli/go_template.h"

namespace vmm::engine::cli {
namespace {

constexpr std::string_view kTable = "table";
constexpr std::size_t kMinWidth = 10;
constexpr std::size_t kPadding = 3;

// Characters, of UTF-8.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

// What a shell leaves as two characters.
std::string unescape(std::string text) {
  for (const auto& [escaped, plain] : {std::pair{"\\t", "\t"}, {"\\n", "\n"}}) {
    for (std::size_t at = 0; (at = text.find(escaped, at)) != std::string::npos;) {
      text.replace(at, 2, plain);
    }
  }
  return text;
}

}  // namespace

std::string align_columns(const std::vector<std::string>& lines) {
  std::vector<std::size_t> widths;
  for (const auto& line : lines) {
    const auto cells = split(line, '\t');
    widths.resize(std::max(widths.size(), cells.size()), kMinWidth);
    for (std::size_t i = 0; i + 1 < cells.size(); ++i) {
      widths[i] = std::max(widths[i], width(cells[i]) + kPadding);
    }
  }
  std::string text;
  for (const auto& line : lines) {
    const auto cells = split(line, '\t');
    for (std::size_t i = 0; i < cells.size(); ++i) {
      text += cells[i];
      if (i + 1 < cells.size()) text.append(widths[i] - width(cells[i]), ' ');
    }
    text += '\n';
  }
  return text;
}

Result<std::string> format_rows(const RowFormat& format,
                                const std::vector<nlohmann::ordered_json>& rows) {
  const bool is_table = format.format.empty() || format.format.starts_with(kTable);
  std::string columns = format.format;
  if (is_table) {
    columns = columns.substr(std::min(columns.size(), kTable.size()));
    columns.erase(0, columns.find_first_not_of(' '));
    if (columns.empty()) columns = format.table;
  } else if (columns == "json") {
    columns = "{{json .}}";
  }
  const auto row_template = TRY(GoTemplate::parse(unescape(columns)));
  std::vector<std::string> lines;
  if (is_table) lines.push_back(TRY(row_template.render(format.headers)));
  for (const auto& row : rows) lines.push_back(TRY(row_template.render(row)));
  if (is_table) return align_columns(lines);
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}

}  // namespace vmm::engine::cli
