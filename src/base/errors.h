// Errors: what is wrong with several things, each of which was tried, as one message.
//
//   Errors errors;
//   for (const auto& file : files) errors.add(open(file));
//   TRY(errors.result());                 // "disk 'a': it is in use; disk 'b': it is in use"
#pragma once

#include <string>

#include "src/base/result.h"

namespace vmm {

class Errors {
 public:
  // Whether it is one that went well.
  template <typename T>
  bool add(const Result<T>& result) {
    if (!result) add(result.error());
    return result.has_value();
  }
  void add(const Error& error) { text_ += (text_.empty() ? "" : "; ") + error.message(); }
  bool empty() const { return text_.empty(); }
  Result<void> result() const {
    if (empty()) return {};
    return fail("{}", text_);
  }

 private:
  std::string text_;
};

}  // namespace vmm
