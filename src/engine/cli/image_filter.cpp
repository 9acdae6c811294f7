#include "src/engine/cli/image_filter.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>

#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/image/manifest.h"

namespace vmm::engine::cli {
namespace {

// "24h", "90m", "1h30m", or a time; seconds since 1970.
Result<std::int64_t> parse_until(std::string_view text) {
  if (auto time = parse_time(text)) return *time;
  std::int64_t seconds = 0;
  std::string_view left = text;
  while (!left.empty()) {
    const auto digits = left.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string_view::npos) break;
    const auto number = TRY(parse_number(left.substr(0, digits), 0, 1'000'000'000, "until"));
    const char unit = left[digits];
    const int factor = unit == 'h' ? 3600 : unit == 'm' ? 60 : unit == 's' ? 1 : 0;
    if (factor == 0) break;
    seconds += static_cast<std::int64_t>(number) * factor;
    left.remove_prefix(digits + 1);
  }
  if (!left.empty() || text.empty()) {
    return fail("invalid filter 'until={}': expected a time or a duration such as 24h", text);
  }
  return now() - seconds;
}

Result<bool> has_label(Store& store, const Image& image, std::string_view wanted) {
  const auto config =
      TRY(parse_image_config(TRY(store.content().read_blob(image.id, kMaxDocument))));
  const auto* object = &config.json;
  for (const auto* name : {"config", "Labels"}) {
    const auto found = object->find(name);
    if (found == object->end() || !found->is_object()) return false;
    object = &*found;
  }
  const auto equals = wanted.find('=');
  const auto label = object->find(std::string(wanted.substr(0, equals)));
  if (label == object->end()) return false;
  return equals == std::string_view::npos || *label == std::string(wanted.substr(equals + 1));
}

bool fits(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), FNM_PATHNAME) == 0;
}

}  // namespace

Result<ImageFilter> ImageFilter::parse(Store& store, const std::vector<std::string>& filters) {
  ImageFilter filter;
  Catalog catalog(store);
  for (const auto& text : filters) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) {
      return fail("invalid argument \"{}\" for \"-f, --filter\" flag: invalid filter '{}'", text,
                  text);
    }
    const auto name = text.substr(0, equals), value = text.substr(equals + 1);
    if (name == "reference") {
      filter.references_.push_back(value);
    } else if (name == "label") {
      filter.labels_.push_back(value);
    } else if (name == "dangling") {
      if (value != "true" && value != "false" && value != "1" && value != "0") {
        return fail("invalid filter 'dangling=[{}]'", value);
      }
      filter.dangling_ = value == "true" || value == "1";
    } else if (name == "before") {
      filter.created_before_ = TRY(catalog.find(value)).created;
    } else if (name == "since") {
      filter.created_since_ = TRY(catalog.find(value)).created;
    } else if (name == "until") {
      filter.until_ = TRY(parse_until(value));
    } else {
      return fail("invalid filter '{}'", name);
    }
  }
  return filter;
}

bool ImageFilter::matches_name(const std::string& repository, const std::string& tag) const {
  if (references_.empty()) return true;
  const auto familiar = familiar_repository(repository);
  return std::ranges::any_of(references_, [&](const std::string& pattern) {
    return fits(pattern, familiar) || fits(pattern, familiar + ":" + tag) ||
           fits(pattern, repository) || fits(pattern, repository + ":" + tag);
  });
}

Result<bool> ImageFilter::matches(Store& store, const Image& image) const {
  if (created_before_ && image.created >= *created_before_) return false;
  if (created_since_ && image.created <= *created_since_) return false;
  if (until_ && image.created > *until_) return false;
  if (dangling_ && TRY(Catalog(store).tags(image.id)).empty() != *dangling_) return false;
  for (const auto& label : labels_) {
    if (!TRY(has_label(store, image, label))) return false;
  }
  return true;
}

}  // namespace vmm::engine::cli
