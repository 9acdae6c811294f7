// PayloadCache: what kernels and initrds hold, kept as files, so that each is decompressed on its
// first start only.
//
//   const PayloadCache cache = PayloadCache::of_user("kernels");
//   const auto identity = FileIdentity::of(status);           // stat(2) of the bzImage
//   if (auto entry = cache.find(identity)) ... entry->file has the vmlinux at its start
//   else cache.store(identity, setup_header, vmlinux);        // best effort
//
// A file is named by the identity of its source (device, inode, size, times), so that a hit needs
// no digest of that. It holds the payload, page-aligned and so mappable, and a trailer with the
// identity, digests of itself and of the payload and, of a bzImage, the setup header. It is synced
// before it has its name. The payload's digest is compared once after each start of the host and
// after each write to the file: what was looked at is marked by the nanoseconds of its time. Only
// what this user alone can write is trusted. Nothing here is ever an error: what cannot be cached,
// or is damaged, is decompressed again.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/unique_fd.h"

namespace vmm::loader {

struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;  // 0: it has no name and is never met again; nothing of it is kept
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_ns = 0;

  static FileIdentity of(const struct stat& status);
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

class PayloadCache {
 public:
  static constexpr std::size_t kMaxEntries = 16;

  // $XDG_CACHE_HOME/vmm/KIND, else ~/.cache/vmm/KIND; no cache when neither is known.
  static PayloadCache of_user(std::string_view kind);
  // An empty directory means no cache. The directory is made, 0700, when something is stored.
  explicit PayloadCache(std::string directory) : directory_(std::move(directory)) {}

  struct Entry {
    UniqueFd file;
    std::uint64_t payload_size = 0;  // bytes from the file's start
    std::vector<std::byte> setup_header;
  };
  std::optional<Entry> find(const FileIdentity& identity) const;

  // Whether it is kept now. Any number of processes may store at once. The oldest entries beyond
  // kMaxEntries are removed.
  bool store(const FileIdentity& identity, std::span<const std::byte> setup_header,
             std::span<const std::byte> payload) const;

  // Where the entry of `identity` is or would be.
  std::string path_of(const FileIdentity& identity) const;

 private:
  void prune() const;

  std::string directory_;
};

}  // namespace vmm::loader
