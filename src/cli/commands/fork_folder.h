// The folder DIR.forks with the sockets and consoles of forked machines.
//
//   auto folder = TRY(ForkFolder::create("/snapshots/seeded.forks"));
//   ... machines are started, each with a copy of folder.lock() ...
//   folder.finish();          // else its destructor removes the folder
//
// While it is not finished it has a file `lock`, held by the process that makes it and by the
// machines that it started. Of a fork that was killed, with no machine left, it is taken over.
#pragma once

#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm::cli {

class ForkFolder {
 public:
  // Error: something of that name is there that no dead fork left.
  static Result<ForkFolder> create(const std::string& path);
  ForkFolder(ForkFolder&&) noexcept = default;
  ForkFolder& operator=(ForkFolder&&) = delete;
  ~ForkFolder();

  const std::string& path() const { return path_; }
  int lock() const { return lock_.get(); }
  void finish();

 private:
  ForkFolder(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  UniqueFd lock_;  // empty: finished, or moved from
};

}  // namespace vmm::cli
