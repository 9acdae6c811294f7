// What a library throws, as an Error.
//
//   const Result<Images> images = caught([&] { return load_images(paths); });
#pragma once

#include <exception>
#include <new>
#include <type_traits>

#include "src/base/result.h"

namespace vmm {

// Runs `task`, which returns nothing or a Result.
template <typename Task>
auto caught(Task&& task) {
  using Returned = std::invoke_result_t<Task&>;
  using Caught = std::conditional_t<std::is_void_v<Returned>, Result<void>, Returned>;
  try {
    if constexpr (std::is_void_v<Returned>) {
      task();
      return Caught();
    } else {
      return task();
    }
  } catch (const std::bad_alloc&) {
    return Caught(fail("the host has no memory left for this machine"));
  } catch (const std::exception& error) {
    return Caught(fail("unexpected error: {}", error.what()));
  }
}

}  // namespace vmm
