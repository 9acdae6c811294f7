// ContainerFilter: --filter of ps and container prune.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/engine/runtime/container.h"

namespace vmm::engine::cli {

class ContainerFilter {
 public:
  // "status=exited", "name=web", ... Values of one key are alternatives, but for labels. Error: an
  // unknown key or value, no such container.
  static Result<ContainerFilter> parse(Containers& containers,
                                       const std::vector<std::string>& texts);
  Result<bool> matches(Store& store, const Container& container) const;
  // Stopped ones are asked for, without --all.
  bool asks_for_stopped() const { return asks_for_stopped_; }

 private:
  struct Condition {
    std::string key, value;
  };
  bool matches_one(const Condition& condition, const Container& container) const;
  Result<bool> has_ancestor(Store& store, const Container& container) const;

  std::vector<Condition> conditions_;
  std::optional<std::int64_t> before_, since_, until_;  // nanoseconds
  bool asks_for_stopped_ = false;
};

// "24h", "1h30m", a time or seconds since 1970, as nanoseconds since 1970. Error: it is none.
Result<std::int64_t> parse_moment(std::string_view text, std::string_view what);

}  // namespace vmm::engine::cli
