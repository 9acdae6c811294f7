// NewFile: a file that has its name only once it is whole.
//
//   auto file = TRY(NewFile::create("root.qcow2", 0666));  // works in root.qcow2.partial, locked
//   TRY(write_all(file.fd(), bytes));
//   TRY(file.publish());                                   // synced, renamed; replaces nothing
//
// What is not published goes with the object. What a killed process leaves is PATH.partial, which
// the next one of that name replaces.
#pragma once

#include <sys/types.h>

#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

class NewFile {
 public:
  // `mode` is subject to the umask. Error: there is something of that name, another process is
  // making it, or its directory cannot be written to.
  static Result<NewFile> create(const std::string& path, mode_t mode);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  int fd() const { return fd_.get(); }
  // Where it lies until it is published.
  std::string partial() const { return path_ + ".partial"; }
  // Makes it durable and gives it its name; refuses when that has appeared meanwhile.
  Result<void> publish();

 private:
  NewFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;  // empty: published, or moved from
  UniqueFd fd_;
};

// Takes over PATH.partial, which a killed process left: locked, so that nobody else does, and for
// its owner to remove. Error: it is not a regular file of this user; with EWOULDBLOCK as its code:
// another process is making it.
Result<UniqueFd> lock_unfinished_file(const std::string& partial);

// Makes what was created, renamed and removed in it durable.
Result<void> sync_directory(const std::string& path);

}  // namespace vmm
