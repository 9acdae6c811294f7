// Source: what a machine is restored from: the directory of a snapshot (Reader), or an archive of
// one (ArchiveReader).
//
//   auto source = TRY(open_source("/snapshots/seeded.vmm"));    // checked, nothing made of it
//   ... a configuration from source->manifest(), with source->disk_file() ...
//   const auto files = TRY(source->unpack_disks());             // they last as long as these
//   auto memory = TRY(source->provide_memory(on_damage));       // read when it is touched
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/boot_files.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/page_server.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::snapshot {

// The guest's memory, and who puts its content in; null: it is there. The server must outlive
// whoever touches the memory.
struct ProvidedMemory {
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<PageServer> server;
};

class Source {
 public:
  virtual ~Source() = default;

  // As it was named, for messages.
  const std::string& path() const { return path_; }
  // Whether path() is a folder, where what restores show can be kept (working_set.h).
  virtual bool is_directory() const = 0;
  const Manifest& manifest() const { return manifest_; }
  // What names the snapshot, the same for a directory and an archive of it.
  const std::string& digest() const { return digest_; }
  state::Sections take_sections() { return std::move(sections_); }
  const state::Sections& sections() const { return sections_; }

  // What a disk's file is opened by, and called. To be asked before unpack_disks().
  struct DiskFile {
    std::string path;
    std::string label;        // empty: its path
    bool is_private = false;  // nobody else's: it may be written to
  };
  virtual DiskFile disk_file(const DiskEntry& disk) const = 0;
  // Puts the content into private disk files; they are there for as long as what is returned.
  virtual Result<std::vector<UniqueFd>> unpack_disks() = 0;
  // What a reset of the guest boots; empty where the snapshot has none. Once, after unpack_disks().
  virtual Result<BootFiles> open_boot() = 0;
  // Once, and last.
  virtual Result<ProvidedMemory> provide_memory(PageServer::OnDamage on_damage) = 0;

 protected:
  explicit Source(std::string path) : path_(std::move(path)) {}
  const std::string path_;
  Manifest manifest_;
  std::string digest_;
  state::Sections sections_;
};

// A directory, or else an archive. Errors name it, and say what does not fit.
Result<std::unique_ptr<Source>> open_source(const std::string& path);

}  // namespace vmm::snapshot
