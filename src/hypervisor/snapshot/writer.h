// Writer: makes the directory of a snapshot so that it is either whole or not there.
//
//   auto writer = TRY(Writer::create("/snapshots/seeded"));   // works in /snapshots/seeded.partial
//   const auto memory = TRY(writer->create_file("memory"));
//   ...
//   TRY(writer->publish(manifest));                           // synced, manifest last, renamed
//
// Whatever ends the process before publish() leaves at most the partial directory, which the next
// save of that name, or `vmm snapshot prune`, takes away.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm::snapshot {

class Reader;

// Whether the snapshot is of a machine of this process, or made of another snapshot.
enum class Origin : std::uint8_t { other, machine };

class Writer {
 public:
  // Error: there is something of that name, another save is making it, or NAME.partial is not what
  // a save of this user left.
  static Result<std::unique_ptr<Writer>> create(const std::string& directory);
  // Removes what was not published.
  ~Writer();

  // The final path; absolute, without symbolic links.
  const std::string& directory() const { return directory_; }
  std::string path_of(std::string_view name) const;
  // Of the directory that it works in.
  int handle() const { return handle_.get(); }

  // A fresh file, open for reading and writing, readable by its owner only.
  Result<UniqueFd> create_file(std::string_view name) const;
  Result<void> write_file(std::string_view name, std::span<const std::byte> bytes) const;
  // It may not be there.
  Result<void> remove_file(std::string_view name) const;

  // Error: it cannot be read as a snapshot, too; a parent that its path does not lead to among
  // that.
  Result<void> publish(const Manifest& manifest, Origin origin = Origin::other);

 private:
  Writer(std::string directory, std::string partial, UniqueFd handle)
      : directory_(std::move(directory)),
        partial_(std::move(partial)),
        handle_(std::move(handle)) {}

  const std::string directory_;
  const std::string partial_;
  UniqueFd handle_;  // of the partial directory, locked
  bool published_ = false;
};

// What a snapshot that builds on `parent` says of it: the way there from the writer's directory.
Result<Parent> parent_of(const Writer& writer, const Reader& parent);

// Writes the file of a complete memory: `pages` of it, and holes; synced. Returns its digest.
// `progress` advances by all of them twice.
Result<std::string> write_memory(const Writer& writer, const GuestMemory& memory,
                                 std::span<const Extent> pages,
                                 Progress& progress = Progress::none());

}  // namespace vmm::snapshot
