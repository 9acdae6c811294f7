// Prints rows as Docker's commands do: a table, JSON lines, or a template a row.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::engine::cli {

struct RowFormat {
  std::string format;              // of --format; "": the table
  std::string_view table;          // the default columns: "{{.ID}}\t{{.Size}}"
  nlohmann::ordered_json headers;  // by field
};

// The text of all rows. Fields of a row are those of the headers.
Result<std::string> format_rows(const RowFormat& format,
                                const std::vector<nlohmann::ordered_json>& rows);

// Columns between tabs, as wide as their widest cell and three spaces, at least ten.
std::string align_columns(const std::vector<std::string>& lines);

}  // namespace vmm::engine::cli
