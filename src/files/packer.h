// Packer: the files below a directory, as a stream.
//
//   Packer packer([&](const std::string& message) { return write_all(fd, message); });
//   TRY(packer.pack(root, {.path = "/etc", .name = "etc"}));
//   TRY(packer.finish());
//
// What changes meanwhile is as it is when its turn comes; a file that became shorter ends in zeros.
// Sockets are left out.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "src/files/directory.h"

namespace vmm::files {

using Send = std::function<Result<void>(const std::string&)>;

struct PackOptions {
  std::string path;     // within the root
  std::string name;     // of its entry; "": what the directory has, and not itself
  bool follow = false;  // a link at the end of the path
};

class Packer {
 public:
  explicit Packer(Send send) : send_(std::move(send)) {}

  Result<void> pack(int root, const PackOptions& options);
  // One file of a directory, and if it is one, all in it. False: it is gone, or a socket.
  Result<bool> add(int directory, const std::string& file, const std::string& name);
  // Only itself.
  Result<bool> add_alone(int directory, const std::string& file, const std::string& name);
  Result<void> add_empty(const std::string& name);  // a plain file
  template <typename T>
  Result<void> send(const T& message) {
    return send_(protocol::agent::encode(message));
  }
  Result<void> finish() { return send(End{}); }

 private:
  Result<void> add_children(int directory, const std::string& name);
  Result<bool> add_file(int directory, const std::string& file, Entry entry);
  Result<void> send_data(int fd, std::uint64_t size);

  const Send send_;
  std::map<std::pair<dev_t, ino_t>, std::string> linked_;  // files of several names
};

// The entry of a path without a name; with the target of a link. None: there is no such file.
Result<std::optional<Entry>> examine(int root, const std::string& path, bool follow);

}  // namespace vmm::files
