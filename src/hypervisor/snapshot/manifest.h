// Manifest: what a snapshot is, readable. The file manifest.json of its directory (FORMAT.md).
//
//   const auto manifest = TRY(parse_manifest(text));     // version, architecture, digest: checked
//   const std::string text = to_text(manifest);           // ends in a digest of itself
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::snapshot {

// What is written: the lowest that says it all. Version 2 added layers of disks, version 3 a
// configuration whose values have types.
inline constexpr unsigned kFirstVersion = 1;
inline constexpr unsigned kLastVersion = 3;
// Bytes of its text.
inline constexpr std::size_t kMaxManifest = 1u << 20;
inline constexpr std::string_view kManifestFile = "manifest.json";
inline constexpr std::string_view kStateFile = "state";
inline constexpr std::string_view kMemoryFile = "memory";
inline constexpr std::string_view kKernelFile = "kernel";
inline constexpr std::string_view kInitrdFile = "initrd";

// A large file of the directory, beside the memory.
struct KeptFile {
  std::string name;
  std::uint64_t size = 0;
  std::string digest;
};

// What a reset of the guest boots.
struct BootFile : KeptFile {
  bool of_parent = false;  // the parent has the same one, or its own parent; here is no file
};

// A disk that the snapshot has a copy of, or (read-only ones) refers to.
struct DiskEntry {
  std::string device;  // "blk0"
  std::string file;    // in the directory; empty: the file at `path`
  std::string path;    // where it was
  std::uint64_t size = 0;
  // When the file at `path` had changed last; 0: not known, of one that is not referred to.
  std::int64_t modified_ns = 0;
  std::string digest;  // of the file in the directory
  // The file is a qcow2 image with what changed, over the parent's file for the same device.
  bool layer = false;
  std::uint64_t file_size = 0;  // of a layer's file
};

struct Parent {
  std::string path;    // relative to the snapshot's directory, or absolute
  std::string digest;  // its manifest's
};

struct Manifest {
  std::string architecture;
  std::string program;      // version of the vmm that made it
  std::string config;       // what the machine is, JSON text
  std::string attachments;  // what it was connected to, JSON text: a note; empty: not known
  bool typed = true;        // its values have types; older ones are the words of options
  std::vector<MemoryRange> memory;
  std::string memory_digest;
  std::string state_digest;
  std::vector<BootFile> boot;  // the kernel, or that and the initrd; empty: not known
  std::vector<DiskEntry> disks;
  std::optional<Parent> parent;  // there is one: the memory file holds what changed since

  std::uint64_t memory_size() const;
  unsigned version() const;
  // Those of `boot` and the disks' that are in the directory, in this order.
  std::vector<KeptFile> files() const;
  // Of the device; null: there is none.
  const DiskEntry* disk(std::string_view device) const;
};

// Of a machine that is saved: two texts of its manifest.
struct MachineTexts {
  std::string config, attachments;
};

// This program's.
std::string_view host_architecture();

std::string to_text(const Manifest& manifest);
// The digest in the text: what names this very snapshot.
Result<std::string> digest_in(const std::string& text);
// Errors are sentences that say which version, architecture or field is wrong.
Result<Manifest> parse_manifest(const std::string& text);

}  // namespace vmm::snapshot
