// Store: all that the engine keeps, below one directory.
//
//   ROOT/store.db, -wal    what there is and how it is named (SQLite: of no use without each other)
//   ROOT/blobs, layers, merged   contents by digest
//   ROOT/containers/ID     a container's own files (runtime/container.h)
//   ROOT/tmp               files that are being written
//   ROOT/lock              held shared by each command, alone by what removes contents
//
// Order of changes, so that a process may be killed, or the power fail, at any instant: contents
// first, synced, then their directories, then the rows that name them, in one transaction. What is
// named therefore exists; what is not named is garbage that the next removal collects. Temporary
// files go when a command finds the store unused.
#pragma once

#include <string>

#include "src/engine/store/content_store.h"
#include "src/engine/store/database.h"

namespace vmm::engine {

// $VMM_ROOT, else /var/lib/vmm for root, else $XDG_DATA_HOME/vmm or ~/.local/share/vmm. Of these
// two, a path that is not absolute counts as none.
Result<std::string> default_root();

class Store {
 public:
  static Result<Store> open(const std::string& root);

  const std::string& root() const { return root_; }
  const ContentStore& content() const { return content_; }
  Database& database() { return database_; }

  // Removes the contents that no row names. Does nothing while another command uses the store: its
  // contents may not have their rows yet. Returns the bytes that were freed on the disk.
  Result<std::uint64_t> collect_garbage();

 private:
  Store(std::string root, UniqueFd lock, ContentStore content, Database database)
      : root_(std::move(root)),
        lock_(std::move(lock)),
        content_(std::move(content)),
        database_(std::move(database)) {}

  std::string root_;
  UniqueFd lock_;
  ContentStore content_;
  Database database_;
};

}  // namespace vmm::engine
