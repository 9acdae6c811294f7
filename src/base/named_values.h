// NamedValues: what a part of the program says about itself. Who shows it makes JSON of it
// (to_json_text() in json.h), so that nobody else needs a JSON library.
//
//   NamedValues metrics = {{"reads", reads}, {"link_up", true}};
//   metrics.push_back({"guest", NamedValues{{"free_memory", bytes}}});
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace vmm {

struct NamedValue;
using NamedValues = std::vector<NamedValue>;
using NamedValuesList = std::vector<NamedValues>;

struct NamedValue {
  std::string name;
  std::variant<bool, std::uint64_t, double, std::string, std::vector<std::string>, NamedValues,
               NamedValuesList>
      value;
};

}  // namespace vmm
