// The file of a disk in a snapshot: a raw copy, or a layer: a qcow2 image with what changed, whose
// backing file is the parent's for the same device.
//
//   DiskEntry entry{.device = "blk0", .path = "/images/root.img", .size = size};
//   auto target = TRY(create_layer(writer, entry, parent, below));   // or create_copy()
//   ... what the disk held at the moment goes to the target ...
//   TRY(complete_entry(writer, entry));                              // its digest
#pragma once

#include <memory>
#include <string>

#include "src/base/progress.h"
#include "src/disk/copied_disk.h"
#include "src/disk/qcow2/chain.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {

disk::ImageFormat image_format(const DiskEntry& entry);
// As it stands in a layer over `below`, a disk of the parent.
std::string backing_path(const Parent& parent, const DiskEntry& below);

// Makes the file and completes the entry by its name. Null: it is a clone of the file `plain_file`
// (-1: there is none) already.
Result<std::unique_ptr<disk::CopyTarget>> create_copy(const Writer& writer, DiskEntry& entry,
                                                      int plain_file);
Result<std::unique_ptr<disk::CopyTarget>> create_layer(const Writer& writer, DiskEntry& entry,
                                                       const Parent& parent,
                                                       const DiskEntry& below);
// When the file is whole: syncs it; its digest and size.
Result<void> complete_entry(const Writer& writer, DiskEntry& entry,
                            Progress& progress = Progress::none());

// The disk with all that is behind it, for reading.
Result<std::unique_ptr<disk::qcow2::Chain>> open_disk_file(const std::string& path,
                                                           const DiskEntry& entry);

}  // namespace vmm::snapshot
