// NewFile: a file that has its name only once it is whole.
//
//   auto file = TRY(NewFile::create("root.qcow2", 0666));  // works in root.qcow2.partial, locked
//   TRY(write_all(file.fd(), bytes));
//   TRY(file.publish());                                   // synced, renamed; replaces nothing
//
//   auto file = TRY(NewFile::replacing("images.tar"));     // has no name at all yet
//   ...
//   TRY(file.publish());                                   // in place of what was there
//
// What is not published goes with the object. What a killed process leaves of the first kind is
// PATH.partial, which the next one of that name replaces; of the second kind nothing, where the
// file system has files without names (O_TMPFILE).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

class NewFile {
 public:
  // `mode` is subject to the umask. Error: there is something of that name, another process is
  // making it, or its directory cannot be written to.
  static Result<NewFile> create(const std::string& path, mode_t mode);
  // Mode 0600. In a directory where others write too, no name of it is theirs to take before.
  static Result<NewFile> replacing(const std::string& path);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  int fd() const { return fd_.get(); }
  // Where it lies until it is published; "": it has no name.
  const std::string& partial() const { return partial_; }
  // Makes it durable and gives it its name. One that replaces nothing refuses when that has
  // appeared meanwhile.
  Result<void> publish();

 private:
  enum class IfThere : std::uint8_t { is_an_error, is_replaced };
  NewFile(std::string path, std::string partial, UniqueFd fd, IfThere if_there)
      : path_(std::move(path)),
        partial_(std::move(partial)),
        fd_(std::move(fd)),
        if_there_(if_there) {}
  Result<void> take_name();
  Result<void> replace();

  std::string path_;     // empty: published, or moved from
  std::string partial_;  // it is removed with the object
  UniqueFd fd_;
  IfThere if_there_;
};

// Takes over PATH.partial, which a killed process left: locked, so that nobody else does, and for
// its owner to remove. Error: it is not a regular file of this user; with EWOULDBLOCK as its code:
// another process is making it.
Result<UniqueFd> lock_unfinished_file(const std::string& partial);

// Makes what was created, renamed and removed in it durable.
Result<void> sync_directory(const std::string& path);

// Makes the directories of a path that are missing, and their names durable; the last one with that
// mode.
Result<void> create_directories(const std::string& path, mode_t mode = 0777);

}  // namespace vmm
