// A stream of files: what a task of the agent (agent::FileTask) writes to its output or reads from
// its input. Messages as of agent.h: an Entry, then for a regular file its Pieces in ascending
// order; of Changes, those alone. End is last: a stream without it has broken off.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/protocol/agent.h"

namespace vmm::protocol::files {

struct Xattr {
  std::string name;
  Bytes value;
  static void fields(auto& message, auto& archive) {
    archive(1, message.name);
    archive(2, message.value);
  }
};

struct Entry {
  static constexpr std::uint8_t kType = 1;
  std::string name;  // "etc/passwd", relative
  std::uint32_t mode = 0, uid = 0, gid = 0;
  std::uint64_t mtime = 0;  // seconds since 1970, of two's complement
  std::uint32_t mtime_ns = 0;
  std::uint64_t size = 0;              // of a regular file; what no Piece covers is zeros
  std::string target;                  // of a symbolic link
  std::string hard_link;               // the name of an earlier entry, which this one is too
  std::uint32_t major = 0, minor = 0;  // of a device
  std::vector<Xattr> xattrs;
  static void fields(auto& message, auto& archive) {
    archive(1, message.name);
    archive(2, message.mode);
    archive(3, message.uid);
    archive(4, message.gid);
    archive(5, message.mtime);
    archive(6, message.mtime_ns);
    archive(7, message.size);
    archive(8, message.target);
    archive(9, message.hard_link);
    archive(10, message.major);
    archive(11, message.minor);
    archive(12, message.xattrs);
  }
};

struct Piece {
  static constexpr std::uint8_t kType = 2;
  std::uint64_t offset = 0;
  Bytes bytes;
  static void fields(auto& message, auto& archive) {
    archive(1, message.offset);
    archive(2, message.bytes);
  }
};

// How a path of the container differs from the image.
struct Change {
  static constexpr std::uint8_t kType = 3;
  enum class Kind : std::uint8_t { changed, added, deleted, last = deleted };
  Kind kind = Kind::changed;
  std::string path;  // absolute
  static void fields(auto& message, auto& archive) {
    archive(1, message.kind);
    archive(2, message.path);
  }
};

struct End {
  static constexpr std::uint8_t kType = 4;
  static void fields(auto&, auto&) {}
};

}  // namespace vmm::protocol::files
