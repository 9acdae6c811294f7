// DetachKeys: the keys by which a person leaves a container's terminal and lets it run.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::engine::cli {

class DetachKeys {
 public:
  // "ctrl-p,ctrl-q", "a", "ctrl-\\": a letter, or ctrl- and one of a-z @ [ \ ] ^ _. Empty: those
  // of Docker.
  static Result<DetachKeys> parse(std::string_view text);

  // What of the typed bytes is for the container; keys that may be the beginning are held back.
  // After the last key, is_complete().
  std::string filter(std::string_view typed);
  bool is_complete() const { return matched_ == keys_.size(); }

 private:
  explicit DetachKeys(std::string keys) : keys_(std::move(keys)) {}
  std::string keys_;
  std::size_t matched_ = 0;
};

}  // namespace vmm::engine::cli
