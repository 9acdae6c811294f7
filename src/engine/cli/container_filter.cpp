#include "src/engine/cli/container_filter.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <regex>

#include "src/base/file_time.h"
#include "src/base/text.h"
#include "src/engine/image/manifest.h"

namespace vmm::engine::cli {
namespace {

constexpr std::array<std::string_view, 7> kStates = {"created", "restarting", "running", "removing",
                                                     "paused",  "exited",     "dead"};
constexpr std::array<std::string_view, 16> kKeys = {
    "ancestor", "before", "exited",  "expose",  "health", "id",     "is-task", "label",
    "label!",   "name",   "network", "publish", "since",  "status", "until",   "volume"};

bool has_label(const Container& container, const std::string& wanted) {
  return std::ranges::any_of(container.spec.labels, [&wanted](const std::string& label) {
    return label == wanted || (!wanted.contains('=') && label.starts_with(wanted + "="));
  });
}

bool matches_name(const std::string& pattern, const std::string& name) {
  try {
    const std::regex expression(pattern);
    return std::regex_search(name, expression) || std::regex_search("/" + name, expression);
  } catch (const std::regex_error&) {
    return name.contains(pattern);
  }
}

bool has_port(const std::string& wanted, const Container& container, bool published) {
  const auto text = wanted.contains('/') ? wanted : wanted + "/tcp";
  const auto is_it = [&](const PublishedPort& port) {
    return fmt::format("{}/{}", published ? port.host_port : port.container_port, port.protocol) ==
           text;
  };
  return std::ranges::any_of(container.spec.ports, is_it) ||
         (!published &&
          std::ranges::find(container.spec.exposed, text) != container.spec.exposed.end());
}

Result<void> check(const std::string& key, const std::string& value) {
  if (std::ranges::find(kKeys, key) == kKeys.end()) return fail("invalid filter '{}'", key);
  if (key == "status" && std::ranges::find(kStates, value) == kStates.end()) {
    return fail("invalid filter 'status={}'", value);
  }
  if (key == "exited" && !parse_number(value, 0, 255, "exited")) {
    return fail("invalid filter 'exited={}'", value);
  }
  return {};
}

}  // namespace

Result<std::int64_t> parse_moment(std::string_view text, std::string_view what) {
  const auto bad = [&] {
    return fail("invalid {} '{}': expected a time, seconds since 1970 or a duration such as 42m",
                what, text);
  };
  // A fraction of a time is more exact than parse_time() is.
  if (const auto time = parse_time(text)) {
    const auto dot = text.find('.');
    if (dot == std::string_view::npos) return *time * kNanosecondsPerSecond;
    auto digits = std::string(text.substr(dot + 1));
    digits = digits.substr(0, std::min(digits.find_first_not_of("0123456789"), std::size_t{9}));
    digits.resize(9, '0');
    return *time * kNanosecondsPerSecond + std::atoll(digits.c_str());
  }
  const std::string copy(text);
  char* end = nullptr;
  if (const double seconds = std::strtod(copy.c_str(), &end); end != copy.c_str() && *end == 0) {
    return static_cast<std::int64_t>(seconds * static_cast<double>(kNanosecondsPerSecond));
  }
  double sum = 0;
  for (const char* at = copy.c_str(); *at != 0;) {
    const double number = std::strtod(at, &end);
    if (end == at || number < 0) return bad();
    const double factor = *end == 'h' ? 3600 : *end == 's' ? 1 : *end == 'm' ? 60 : 0;
    const bool is_milli = *end == 'm' && end[1] == 's';
    if (factor == 0) return bad();
    sum += number * (is_milli ? 0.001 : factor);
    at = end + (is_milli ? 2 : 1);
  }
  if (copy.empty()) return bad();
  return now_in_nanoseconds() -
         static_cast<std::int64_t>(sum * static_cast<double>(kNanosecondsPerSecond));
}

Result<ContainerFilter> ContainerFilter::parse(Containers& containers,
                                               const std::vector<std::string>& texts) {
  ContainerFilter filter;
  for (const auto& text : texts) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) {
      return fail("invalid argument \"{}\" for \"-f, --filter\" flag: invalid argument", text);
    }
    auto key = text.substr(0, equals);
    const auto value = text.substr(equals + 1);
    TRY(check(key, value));
    if (key == "before") {
      filter.before_ = TRY(containers.find(value)).created;
    } else if (key == "since") {
      filter.since_ = TRY(containers.find(value)).created;
    } else if (key == "until") {
      filter.until_ = TRY(parse_moment(value, "filter until"));
    } else {
      filter.conditions_.push_back({key, value});
    }
    filter.asks_for_stopped_ |= key == "status" || key == "exited";
  }
  return filter;
}

bool ContainerFilter::matches_one(const Condition& condition, const Container& container) const {
  const auto& [key, value] = condition;
  if (key == "id") return container.id.contains(value);
  if (key == "name") return matches_name(value, container.name);
  if (key == "label") return has_label(container, value);
  if (key == "label!") return !has_label(container, value);
  if (key == "status") return to_text(container.state) == value;
  if (key == "network") return container.spec.network == (value == "bridge" ? "default" : value);
  if (key == "publish") return has_port(value, container, true);
  if (key == "expose") return has_port(value, container, false);
  if (key == "health") return value == "none";
  if (key == "is-task") return value == "false";
  if (key == "exited") {
    return container.state == ContainerState::exited &&
           fmt::format("{}", container.exit_code) == value;
  }
  return false;  // volume: there are none
}

Result<bool> ContainerFilter::has_ancestor(Store& store, const Container& container) const {
  bool asked = false;
  for (const auto& [key, value] : conditions_) {
    if (key != "ancestor") continue;
    asked = true;
    const auto image = Catalog(store).find(value);
    if (image && image->id == container.image) return true;
  }
  return !asked;
}

Result<bool> ContainerFilter::matches(Store& store, const Container& container) const {
  if (before_ && container.created >= *before_) return false;
  if (since_ && container.created <= *since_) return false;
  if (until_ && container.created >= *until_) return false;
  if (!TRY(has_ancestor(store, container))) return false;
  for (const auto& condition : conditions_) {
    if (condition.key == "ancestor") continue;
    const bool each = condition.key.starts_with("label");
    const auto is_alternative = [&](const Condition& other) {
      return other.key == condition.key && matches_one(other, container);
    };
    if (each ? !matches_one(condition, container)
             : std::ranges::none_of(conditions_, is_alternative)) {
      return false;
    }
  }
  return true;
}

}  // namespace vmm::engine::cli
