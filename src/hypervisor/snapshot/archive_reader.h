// ArchiveReader: an archive that a machine is restored from as it is, without being imported.
//
// Header, seek table, index, manifest and states are compared with their digests before anything
// is made of it, the disks when they are unpacked. The memory is left packed: each frame is
// compared with its checksum when a page of it is needed (page_server.h). The archive's own digest
// takes reading all of it and is not compared: `vmm snapshot verify` does.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/hypervisor/snapshot/archive.h"
#include "src/hypervisor/snapshot/source.h"

namespace vmm::snapshot {

class ArchiveReader : public Source {
 public:
  // Error: it is of another architecture, or builds on another archive, too.
  static Result<std::unique_ptr<ArchiveReader>> open(const std::string& file);

  // Disks, kernel and initrd are unnamed files beside the archive, or where temporary files go.
  bool is_directory() const override { return false; }
  DiskFile disk_file(const DiskEntry& disk) const override;
  Result<std::vector<UniqueFd>> unpack_disks() override;
  Result<BootFiles> open_boot() override { return std::move(boot_); }
  // On a host that does not permit a page server, all of it is decoded now.
  Result<ProvidedMemory> provide_memory(PageServer::OnDamage on_damage) override;

 private:
  explicit ArchiveReader(const std::string& file) : Source(file) {}
  Result<void> read();
  Result<void> unpack() const;

  ArchiveChain chain_;           // it alone
  std::vector<UniqueFd> files_;  // the manifest's files()
  BootFiles boot_;               // out of these, once they are unpacked
};

}  // namespace vmm::snapshot
