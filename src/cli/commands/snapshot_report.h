// What `vmm snapshot ls` and `inspect` print.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::cli {

std::string table_of(std::span<const snapshot::CatalogEntry> entries);
std::string json_of(std::span<const snapshot::CatalogEntry> entries);

struct SectionSummary {
  std::string name, kind;
  std::uint32_t version = 0;
  std::size_t size = 0;  // bytes of its body
};

// One snapshot, as a directory or in an archive.
struct SnapshotReport {
  struct Packed {
    std::string digest, base;  // of archives
    std::uint64_t pages = 0;   // stored in it
  };
  std::string path;
  snapshot::Manifest manifest;
  std::string digest;
  std::string damage;
  std::size_t depth = 1;
  std::uint64_t stored = 0;       // bytes on disk
  std::uint64_t memory_data = 0;  // bytes of the memory's file that are there
  std::optional<Packed> archive;
  std::vector<SectionSummary> sections;
};

Result<SnapshotReport> report_directory(const std::string& directory);
Result<SnapshotReport> report_archive(const std::string& file, std::span<const std::string> bases);

std::string words_of(const SnapshotReport& report);
std::string json_of(const SnapshotReport& report);

}  // namespace vmm::cli
