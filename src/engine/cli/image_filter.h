// --filter of images: reference=, dangling=, label=, before=, since=, until=.
#pragma once

#include <string>
#include <vector>

#include "src/engine/image/catalog.h"

namespace vmm::engine::cli {

class ImageFilter {
 public:
  // Error: a filter that there is not, or its value.
  static Result<ImageFilter> parse(Store& store, const std::vector<std::string>& filters);

  void add_reference(std::string pattern) { references_.push_back(std::move(pattern)); }
  Result<bool> matches(Store& store, const Image& image) const;
  // Whether this name is one that was asked for.
  bool matches_name(const std::string& repository, const std::string& tag) const;
  bool has_references() const { return !references_.empty(); }

 private:
  std::vector<std::string> references_, labels_;
  std::optional<bool> dangling_;
  std::optional<std::int64_t> created_before_, created_since_, until_;
};

}  // namespace vmm::engine::cli
