// Reader: a snapshot's directory, checked before anything is made of it.
//
//   auto reader = TRY(Reader::open("/snapshots/seeded"));  // all of it checked, its parents too
//   auto memory = TRY(reader->map_memory());               // nothing of it read yet
//   auto sections = reader->take_sections();
//
// The manifest and the states are always compared with their digests; memory and disks when the
// directory's seal does not show that they are as they were written (seal.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/memory_layer.h"
#include "src/hypervisor/snapshot/source.h"

namespace vmm::snapshot {

// The section of the state file that tells what the memory file holds.
inline constexpr std::string_view kMemorySection = "memory";

// How many snapshots one may be composed of.
inline constexpr std::size_t kMaxDepth = 64;

// Of the large files: nothing is compared but their sizes, or what the seal does not fit, or all.
enum class Verify : std::uint8_t { structure, sealed, all };
// Whose snapshots are read: of this host's architecture, to be restored, or of any.
enum class Hosts : std::uint8_t { this_one, any };

class Reader : public Source {
 public:
  // The errors name the directory and say what does not fit.
  static Result<std::unique_ptr<Reader>> open(const std::string& directory,
                                              Verify verify = Verify::sealed,
                                              Hosts hosts = Hosts::this_one,
                                              Progress& progress = Progress::none());

  const std::string& directory() const { return path(); }
  // Of the disk's copy or layer, or of the file referred to.
  std::string disk_path(const DiskEntry& disk) const;
  // Its own, or those of the parent that has them.
  const BootFiles& boot() const { return boot_; }
  // How many snapshots this one is composed of.
  std::size_t depth() const { return layers_.size(); }
  std::uint64_t state_size() const { return state_size_; }

  bool is_directory() const override { return true; }
  DiskFile disk_file(const DiskEntry& disk) const override {
    return {.path = disk_path(disk), .label = {}};
  }
  Result<std::vector<UniqueFd>> unpack_disks() override { return std::vector<UniqueFd>(); }
  Result<BootFiles> open_boot() override { return std::move(boot_); }
  Result<ProvidedMemory> provide_memory(PageServer::OnDamage) override {
    return ProvidedMemory{TRY(map_memory()), nullptr};
  }

  Result<std::unique_ptr<GuestMemory>> map_memory() const;
  // Where the memory may be something else than zero.
  Result<std::vector<Extent>> data_extents() const;

 private:
  struct Layer {
    UniqueFd file;
    MemoryLayer content;
  };
  explicit Reader(std::string directory) : Source(std::move(directory)) {}
  Result<void> read(Verify verify, Hosts hosts, Progress& progress);
  // Without its parents and large files: layers_ has its own alone.
  Result<void> read_own(Hosts hosts);
  Result<void> open_own_boot();
  Result<void> check_parent(const Reader& parent) const;
  Result<MemoryLayer> read_state();
  Result<void> named_as_parent(Result<void> result) const;
  Result<void> check_large_files(std::span<const std::unique_ptr<Reader>> parents, Verify verify,
                                 Progress& progress) const;
  // Those to be compared; all have their sizes, and the read-only disks are as they were.
  Result<std::vector<KeptFile>> check_sizes(Verify verify) const;
  Result<std::uint64_t> size_of(std::span<const KeptFile> files) const;
  Result<void> compare(std::span<const KeptFile> files, Progress& progress) const;
  Result<void> check_layer(const DiskEntry& disk, const Manifest& parent) const;

  std::uint64_t state_size_ = 0;
  std::vector<Layer> layers_;  // the complete one first
  BootFiles boot_;
};

}  // namespace vmm::snapshot
