// The snapshots of a directory, as their manifests tell: nothing large is read or compared.
//
//   for (const auto& entry : TRY(list("/snapshots"))) fmt::print("{}\n", entry.name);
#pragma once

#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::snapshot {

struct CatalogEntry {
  std::string name;    // of its directory
  std::string damage;  // why it cannot be used, or empty; what is not known is empty then
  Manifest manifest;
  std::string digest;
  std::uint64_t stored = 0;  // bytes that its files take on disk
  std::size_t depth = 0;     // how many snapshots it is composed of; 0: a parent is missing
  // NAME.partial: of a save, import or export that goes on, or that was killed.
  bool unfinished = false;
};

// One snapshot of any architecture. Error: it is none, or its manifest cannot be read.
Result<CatalogEntry> examine(const std::string& directory);

// All of them by name, damaged and unfinished ones too.
Result<std::vector<CatalogEntry>> list(const std::string& directory);

// Where the snapshot's parent is: without symbolic links and `..`, so that the paths of a long
// chain do not grow. Empty: it has none.
std::string parent_directory(const std::string& directory, const Manifest& manifest);

// The names of those beside it that have it as their parent.
Result<std::vector<std::string>> children_of(const std::string& directory);

}  // namespace vmm::snapshot
