#include "src/engine/cli/go_functions.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "src/engine/cli/go_template.h"

namespace vmm::engine::cli::go {
namespace {

using Arguments = std::span<const Json>;
constexpr std::int64_t kMaxPadding = 1000;

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// As Go's encoder, which escapes what HTML would read.
std::string escape_html(std::string text) {
  for (const auto& [plain, escaped] :
       {std::pair{'<', "\\u003c"}, {'>', "\\u003e"}, {'&', "\\u0026"}}) {
    for (std::size_t at = 0; (at = text.find(plain, at)) != std::string::npos;) {
      text.replace(at, 1, escaped);
    }
  }
  return text;
}

Result<Json> json_text(Arguments a) { return Json(escape_html(dump(a[0]))); }

Result<Json> join(Arguments a) {
  std::string text;
  if (!a[0].is_array() && !a[0].is_null()) return fail("error calling join: not a list");
  for (const auto& item : a[0]) text += (text.empty() ? "" : go_text(a[1])) + go_text(item);
  return Json(text);
}

Result<Json> index(Arguments a) {
  const Json* value = &a[0];
  static const Json none;
  for (const auto& key : a.subspan(1)) {
    if (value->is_null()) return Json();
    if (value->is_array() && key.is_number_integer()) {
      const auto i = key.get<std::int64_t>();
      if (i < 0 || static_cast<std::size_t>(i) >= value->size()) {
        return fail("error calling index: index out of range: {}", i);
      }
      value = &(*value)[static_cast<std::size_t>(i)];
    } else if (value->is_object() && key.is_string()) {
      const auto found = value->find(key.get<std::string>());
      value = found == value->end() ? &none : &*found;
    } else {
      return fail("error calling index: can't index item of type {}", value->type_name());
    }
  }
  return *value;
}

Result<Json> length(Arguments a) {
  if (a[0].is_string()) return Json(a[0].get_ref<const std::string&>().size());
  if (a[0].is_null() || a[0].is_structured()) return Json(a[0].size());
  return fail("error calling len: len of type {}", a[0].type_name());
}

template <int Convert(int)>
Result<Json> convert(Arguments a) {
  auto text = go_text(a[0]);
  std::ranges::transform(text, text.begin(),
                         [](unsigned char c) { return static_cast<char>(Convert(c)); });
  return Json(text);
}

Result<Json> title(Arguments a) {
  auto text = go_text(a[0]);
  bool starts = true;
  for (char& c : text) {
    if (starts) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    starts = c == ' ';
  }
  return Json(text);
}

Result<Json> split(Arguments a) {
  const auto text = go_text(a[0]), separator = go_text(a[1]);
  Json parts = Json::array();
  std::size_t begin = 0;
  for (std::size_t at;
       !separator.empty() && (at = text.find(separator, begin)) != std::string::npos;
       begin = at + separator.size()) {
    parts.push_back(text.substr(begin, at - begin));
  }
  parts.push_back(text.substr(begin));
  return parts;
}

Result<Json> slice(Arguments a) {
  const auto at = [&a](std::size_t i, std::size_t otherwise) -> Result<std::size_t> {
    if (i >= a.size()) return otherwise;
    if (!a[i].is_number_integer() || a[i] < 0) return fail("error calling slice: invalid index");
    return a[i].get<std::size_t>();
  };
  const auto size = a[0].is_string() ? a[0].get_ref<const std::string&>().size() : a[0].size();
  const auto begin = TRY(at(1, 0)), end = TRY(at(2, size));
  if (begin > end || end > size) return fail("error calling slice: index out of range: {}", end);
  if (a[0].is_string()) return Json(a[0].get<std::string>().substr(begin, end - begin));
  if (!a[0].is_array())
    return fail("error calling slice: can't slice item of type {}", a[0].type_name());
  return Json(Json::array_t(a[0].begin() + static_cast<std::ptrdiff_t>(begin),
                            a[0].begin() + static_cast<std::ptrdiff_t>(end)));
}

Result<Json> truncate(Arguments a) {
  if (!a[1].is_number_integer() || a[1] < 0) return fail("error calling truncate: invalid length");
  return Json(go_text(a[0]).substr(0, a[1].get<std::size_t>()));
}

Result<Json> pad(Arguments a) {
  for (const auto& count : a.subspan(1)) {
    if (!count.is_number_integer() || count < 0 || count > kMaxPadding) {
      return fail("error calling pad: expected 0 to {}", kMaxPadding);
    }
  }
  const auto text = go_text(a[0]);
  if (text.empty()) return Json(text);
  return Json(std::string(a[1].get<std::size_t>(), ' ') + text +
              std::string(a[2].get<std::size_t>(), ' '));
}

Result<Json> print(Arguments a) {
  // A space between two of which neither is a text.
  std::string text;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (i > 0 && !a[i].is_string() && !a[i - 1].is_string()) text += ' ';
    text += go_text(a[i]);
  }
  return Json(text);
}

Result<Json> println(Arguments a) {
  std::string text;
  for (std::size_t i = 0; i < a.size(); ++i) text += (i > 0 ? " " : "") + go_text(a[i]);
  return Json(text + "\n");
}

Result<Json> printf(Arguments a) {
  if (!a[0].is_string()) return fail("error calling printf: the format is not a text");
  const auto& format = a[0].get_ref<const std::string&>();
  std::string text;
  std::size_t next = 1;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      text += format[i];
      continue;
    }
    const char verb = format[++i];
    if (verb == '%') {
      text += verb;
    } else if (std::string_view("svdq").find(verb) == std::string_view::npos) {
      return fail("error calling printf: %{} is not supported", verb);
    } else if (next >= a.size()) {
      text += fmt::format("%!{}(MISSING)", verb);
    } else {
      text += verb == 'q' ? dump(Json(go_text(a[next]))) : go_text(a[next]);
      ++next;
    }
  }
  return Json(text);
}

Result<Json> equal(Arguments a) {
  return Json(std::ranges::find(a.begin() + 1, a.end(), a[0]) != a.end());
}

template <typename Compare>
Result<Json> compare(Arguments a) {
  const bool numbers = a[0].is_number() && a[1].is_number();
  if (!numbers && !(a[0].is_string() && a[1].is_string())) {
    return fail("incompatible types for comparison");
  }
  return Json(Compare{}(a[0], a[1]));
}

Result<Json> all_of(Arguments a) {
  const auto found = std::ranges::find_if_not(a, is_true);
  return found == a.end() ? a.back() : *found;
}
Result<Json> any_of(Arguments a) {
  const auto found = std::ranges::find_if(a, is_true);
  return found == a.end() ? a.back() : *found;
}
Result<Json> negate(Arguments a) { return Json(!is_true(a[0])); }
Result<Json> differ(Arguments a) { return Json(a[0] != a[1]); }
// `table` is taken off the front of a format; within one it is its argument.
Result<Json> itself(Arguments a) { return a[0]; }

struct Function {
  std::string_view name;
  std::size_t least, most;
  Result<Json> (*run)(Arguments);
};
constexpr std::size_t kMany = 100;
constexpr std::array kFunctions = {
    Function{"and", 1, kMany, &all_of},
    Function{"eq", 2, kMany, &equal},
    Function{"ge", 2, 2, &compare<std::greater_equal<>>},
    Function{"gt", 2, 2, &compare<std::greater<>>},
    Function{"index", 1, kMany, &index},
    Function{"join", 2, 2, &join},
    Function{"json", 1, 1, &json_text},
    Function{"le", 2, 2, &compare<std::less_equal<>>},
    Function{"len", 1, 1, &length},
    Function{"lower", 1, 1, &convert<std::tolower>},
    Function{"lt", 2, 2, &compare<std::less<>>},
    Function{"ne", 2, 2, &differ},
    Function{"not", 1, 1, &negate},
    Function{"or", 1, kMany, &any_of},
    Function{"pad", 3, 3, &pad},
    Function{"print", 0, kMany, &print},
    Function{"printf", 1, kMany, &printf},
    Function{"println", 0, kMany, &println},
    Function{"slice", 1, 3, &slice},
    Function{"split", 2, 2, &split},
    Function{"table", 1, 1, &itself},
    Function{"title", 1, 1, &title},
    Function{"truncate", 2, 2, &truncate},
    Function{"upper", 1, 1, &convert<std::toupper>},
};

}  // namespace

bool is_true(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

Result<Json> call(const std::string& name, std::span<const Json> arguments) {
  const auto function = std::ranges::find(kFunctions, name, &Function::name);
  if (function == kFunctions.end()) return fail("function \"{}\" not defined", name);
  if (arguments.size() < function->least || arguments.size() > function->most) {
    return fail("wrong number of args for {}: want {} got {}", name, function->least,
                arguments.size());
  }
  return function->run(arguments);
}

}  // namespace vmm::engine::cli::go
