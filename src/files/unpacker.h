// Unpacker: a stream of files, written below a directory.
//
//   auto unpacker = TRY(Unpacker::open(root, {.path = "/srv", .within = Within::root}));
//   TRY(unpacker.take(message));   // each of the stream
//   TRY(unpacker.finish());        // error: the stream broke off
//
// The stream is hostile: nothing outside of the directory is written, whatever the names say, and
// no hard link is made to a file that the stream did not bring. Files are replaced, directories are
// merged; one in the other's place is an error, as in Docker.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "src/files/directory.h"

namespace vmm::files {

// Whose files they become. `directory`: a person's; symbolic links on the way are an error, and so
// are devices, of the stream or in its way; setuid, setgid and extended attributes other than
// user.* and ACLs are left out. `root`: those of a root's own processes; links on the way lead
// where they do for these.
enum class Within : std::uint8_t { directory, root };
// Of the files that are made. `own`: of this process, and no extended attributes.
enum class Owner : std::uint8_t { own, root, kept };

struct UnpackOptions {
  std::string path;  // of the directory, within the root; with Within::directory the root is it
  Within within = Within::directory;
  Owner owner = Owner::own;
  std::string only;  // what all names begin with; "": anything
};

class Unpacker {
 public:
  // `root` stays open as long as this.
  static Result<Unpacker> open(int root, UnpackOptions options);

  Result<void> take(const protocol::agent::Message& message);
  Result<void> finish();

 private:
  using Parts = std::vector<std::string>;
  struct Directory {
    Parts parts;
    Entry entry;
  };

  Unpacker(int root, UnpackOptions options) : root_(root), options_(std::move(options)) {}
  Result<void> take_entry(const Entry& entry);
  Result<void> take_piece(const Piece& piece);
  Result<UniqueFd> open_directory(const Parts& parts, std::size_t count) const;
  Result<void> check_is_asked_for(const Parts& parts, const std::string& name) const;
  Result<void> find_parent(const Parts& parts);
  Result<void> make_room(const std::string& name, const Entry& entry);
  Result<void> make_directory(const Parts& parts, const Entry& entry);
  Result<void> make_link(const std::string& name, const Entry& entry);
  Result<UniqueFd> open_made(const Parts& target, const Entry& entry) const;
  Result<void> make_other(const std::string& name, const Entry& entry);
  Result<void> close_file();
  Result<void> close_directories(const Parts& next);
  Result<void> set_attributes(int fd, const Entry& entry) const;
  mode_t mode_of(const Entry& entry) const;
  bool is_allowed(const Xattr& xattr) const;

  int root_;
  UnpackOptions options_;
  std::optional<Parts> parent_parts_;  // of parent_
  UniqueFd parent_;
  UniqueFd file_;  // the one whose pieces come
  Entry entry_;    // its
  std::uint64_t next_ = 0;
  // The stream's files by device and number, for hard links. Those that it replaces are taken out:
  // there are no more of them than files.
  std::set<std::pair<dev_t, ino_t>> made_;
  std::vector<Directory>
      directories_;  // those on the way to the last entry get their attributes late
  bool ended_ = false;
};

}  // namespace vmm::files
