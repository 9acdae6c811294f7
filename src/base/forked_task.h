// ForkedTask: a copy of this process that works on the memory as it is now, and tells through a
// pipe what came of it, while this process goes on.
//
//   auto task = TRY(ForkedTask::start("snapshot", {file.get()}, [&](std::span<const int> files) {
//     return write_memory(files[0]);                          // Result<std::vector<std::byte>>
//   }));
//   ...
//   const auto bytes = TRY(task.result());                    // its error is the task's
//
// The copy has one thread, no descriptor but those named, and goes when the thread that started it
// ends. It must take no lock that another thread may hold.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "src/base/child.h"
#include "src/base/result.h"

namespace vmm {

class ForkedTask {
 public:
  using Task = std::function<Result<std::vector<std::byte>>(std::span<const int> files)>;

  // `name`: of its thread, and in errors. `files` are given to the task under other numbers.
  static Result<ForkedTask> start(const std::string& name, const std::vector<int>& files,
                                  const Task& task);

  // Waits for it. Once.
  Result<std::vector<std::byte>> result();
  // Any thread: result() says that it was ended.
  void kill() const { child_.kill(); }

 private:
  ForkedTask(std::string name, Child child, UniqueFd result)
      : name_(std::move(name)), child_(std::move(child)), result_(std::move(result)) {}

  std::string name_;
  Child child_;
  UniqueFd result_;
};

}  // namespace vmm
