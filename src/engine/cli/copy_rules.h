// The rules of `cp` for names, as Docker has them: what is a container's path, and what a copy is
// called where it goes. Texts only.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::engine::cli {

// "web:/etc" or "file" of the command line. A path that begins with '/' or '.' is the host's.
struct CopyName {
  std::string container;  // "": of the host
  std::string path;
};
CopyName parse_copy_name(const std::string& word);

// An absolute path without "." and "..", but for its end: "/." is what is in a directory, and a '/'
// asks for one. `base`: for a relative path.
struct CopyPath {
  std::string path;  // "/srv", "/srv/", "/srv/."
  static CopyPath clean(const std::string& text, const std::string& base);
  std::string name() const;    // "srv"; "." of "/srv/." and of the root
  std::string parent() const;  // "/" of "/srv", "/srv" of "/srv/."
  bool asks_for_directory() const { return path.ends_with('/') || path.ends_with("/."); }
};

struct CopyTarget {
  std::string directory;  // where it is written; it has to be there
  std::string name;       // what it is called there; ".": what is in the source goes there
};
// What is at the destination: nothing, a directory, or something else.
enum class Existing : std::uint8_t { nothing, directory, other };
// Error: in Docker's words, a directory would replace a file, or a file lie in no directory.
Result<CopyTarget> copy_target(const std::string& name, bool is_directory, const CopyPath& to,
                               Existing existing);

}  // namespace vmm::engine::cli
