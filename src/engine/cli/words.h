// The words of a command, as Docker's program takes them: options anywhere before `--`, letters in
// a row (-aq), values adjoined or next (-fx, --format=x, --format x). A command that ends at its
// first name takes no option behind it.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/engine/cli/command_table.h"

namespace vmm::engine::cli {

class Words {
 public:
  // Error: in Docker's words; the caller adds the usage. --help and -h are no options here.
  static Result<Words> parse(const Command& command, std::span<const std::string> arguments);

  // An option with a value, or a flag that is on.
  bool has(std::string_view option) const { return values_.contains(option) && !is_off(option); }
  bool is_off(std::string_view flag) const { return off_.contains(flag); }  // --flag=false
  std::string text(std::string_view option) const;  // the last one; "": not given
  std::vector<std::string> list(std::string_view option) const;
  std::vector<std::string> options() const;  // that were given, and not turned off
  Words with_flag(std::string_view flag) const;
  // The same with `text` in place of `pattern` in all values.
  Words with(std::string_view pattern, std::string_view text) const;
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::set<std::string, std::less<>> off_;
  std::vector<std::string> names_;
};

}  // namespace vmm::engine::cli
