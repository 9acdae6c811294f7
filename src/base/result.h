// Result<T>: a value or an Error, and the two macros to pass errors on.
//
//   Result<UniqueFd> open_disk(const std::string& path) {
//     auto fd = TRY(open_file(path, O_RDWR));
//     TRY(lock_file(fd));
//     return fd;
//   }
//
// No interface of ours throws. Libraries that do are wrapped where they are called.
#pragma once

#include <fmt/core.h>

#include <cerrno>
#include <expected>
#include <string>
#include <utility>

namespace vmm {

// What went wrong, in words for the person who reads it: lower case, no full stop, with the
// offending value. `code` is the errno behind it, or 0.
class Error {
 public:
  explicit Error(std::string message, int code = 0) : message_(std::move(message)), code_(code) {}

  const std::string& message() const { return message_; }
  int code() const { return code_; }

 private:
  std::string message_;
  int code_;
};

template <typename T>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
};

// Builds the failed side of any Result: `return fail("disk '{}' is empty", path);`
template <typename... Args>
std::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error(fmt::format(format, std::forward<Args>(args)...)));
}

// The same for a system call that just failed: the text of errno is appended after a colon.
std::unexpected<Error> fail_errno_text(int code, std::string what);

template <typename... Args>
std::unexpected<Error> fail_errno(fmt::format_string<Args...> format, Args&&... args) {
  const int code = errno;
  return fail_errno_text(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace vmm

// Evaluates to the value of a Result, or returns its error from the enclosing function. May be
// nested: each use has a name of its own.
#define TRY(...) VMM_TRY_NAMED(__COUNTER__, __VA_ARGS__)
#define VMM_TRY_NAMED(number, ...) VMM_TRY(number, __VA_ARGS__)
#define VMM_TRY(number, ...)                                          \
  __extension__({                                                     \
    auto&& try_result_##number = (__VA_ARGS__);                       \
    if (!try_result_##number) [[unlikely]] {                          \
      return std::unexpected(std::move(try_result_##number).error()); \
    }                                                                 \
    std::move(try_result_##number).value();                           \
  })
