// Tree: the files of a file system, as nodes in memory; their data stays where it is.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::erofs {

using InodeId = std::uint32_t;

struct Xattr {
  std::string name;  // with its prefix: "security.capability"
  std::string value;
};

struct Inode {
  mode_t mode = 0;
  std::uint32_t uid = 0, gid = 0;
  std::int64_t mtime = 0;
  std::uint32_t mtime_ns = 0;
  std::uint64_t size = 0;          // of a regular file
  std::uint32_t device_index = 0;  // which of the image's devices has its data
  std::uint32_t first_block = 0;   // there; all blocks in a row
  std::uint32_t rdev = 0;          // of a device, as encode_device() makes it
  std::string target;              // of a symbolic link
  std::vector<Xattr> xattrs;
  std::map<std::string, InodeId> children;  // of a directory, without "." and ".."

  bool is_directory() const { return S_ISDIR(mode); }
  bool is_symlink() const { return S_ISLNK(mode); }
  const std::string* xattr(std::string_view name) const;
  void set_xattr(std::string_view name, std::string value);
  void remove_xattr(std::string_view name);
};

// Of a device file, in Linux's encoding of 32 bits.
std::uint32_t encode_device(std::uint32_t major, std::uint32_t minor);

// A hard link is an inode that several directories' entries name.
class Tree {
 public:
  static constexpr InodeId kRoot = 0;

  Tree();  // a root, 0755, of uid 0
  InodeId add(Inode inode);
  Inode& at(InodeId id) { return inodes_[id]; }
  const Inode& at(InodeId id) const { return inodes_[id]; }
  std::size_t size() const { return inodes_.size(); }
  std::optional<InodeId> child(InodeId directory, const std::string& name) const;

  enum class Missing : std::uint8_t { fails, is_created };
  // The directory that `path` leads to from the root. Symbolic links are followed within the tree:
  // ".." of the root is the root, and a link's absolute target begins there. What is missing is a
  // directory with the attributes of `created`, or nothing. Error: more steps, in all calls, than
  // any sensible set of names takes.
  Result<std::optional<InodeId>> find_directory(std::string_view path, Missing missing,
                                                const Inode& created);

 private:
  std::vector<Inode> inodes_;
  std::uint64_t steps_ = 0;  // of all ways that were followed
};

// The components of a path without "." and "..", as far as they can be resolved by the text alone;
// ".." of the root is the root.
std::vector<std::string> clean_components(std::string_view path);

}  // namespace vmm::erofs
