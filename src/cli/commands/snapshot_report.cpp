#include "src/cli/commands/snapshot_report.h"

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "src/base/json.h"
#include "src/base/text.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::cli {
namespace {

using json = nlohmann::ordered_json;

std::string dump(const json& root) {
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<std::vector<SectionSummary>> sections_in(std::span<const std::byte> bytes) {
  std::vector<SectionSummary> summaries;
  const auto sections = TRY(state::Sections::from_bytes(bytes));
  sections.for_each([&](const state::Section& section) {
    summaries.push_back({section.name, section.kind, section.version, section.body.size()});
  });
  return summaries;
}

std::string parent_name(const snapshot::Manifest& manifest) {
  if (!manifest.parent) return {};
  const auto& path = manifest.parent->path;
  return path.starts_with("../") ? path.substr(3) : path;
}

std::string disk_in_words(const snapshot::DiskEntry& disk) {
  return fmt::format(
      "  {:<8}{}, {}\n", disk.device, size_in_words(disk.size),
      disk.file.empty()
          ? fmt::format("read-only, refers to {}", disk.path)
          : fmt::format("{}{}, was {}", disk.file, disk.layer ? " (what changed)" : "", disk.path));
}

}  // namespace

std::string table_of(std::span<const snapshot::CatalogEntry> entries) {
  std::size_t width = 4;
  for (const auto& entry : entries) width = std::max(width, entry.name.size());
  auto text = fmt::format("{:<{}}  {:<12}  {:>9}  {:>9}  {:>5}  {:<8}  {:<8}  {}\n", "NAME", width,
                          "DIGEST", "MEMORY", "STORED", "DISKS", "ARCH", "VMM", "PARENT");
  for (const auto& entry : entries) {
    const auto& manifest = entry.manifest;
    if (entry.unfinished) {
      text += fmt::format("{:<{}}  unfinished, {}: {}\n", entry.name, width,
                          size_in_words(entry.stored), entry.damage);
      continue;
    }
    if (entry.digest.empty()) {
      text += fmt::format("{:<{}}  damaged: {}\n", entry.name, width, entry.damage);
      continue;
    }
    std::string parent = manifest.parent ? parent_name(manifest) : "-";
    if (!entry.damage.empty()) parent += " (" + entry.damage + ")";
    if (entry.depth > 2) parent += fmt::format(" ({} deep)", entry.depth);
    text += fmt::format("{:<{}}  {:<12}  {:>9}  {:>9}  {:>5}  {:<8}  {:<8}  {}\n", entry.name,
                        width, entry.digest.substr(0, 12), size_in_words(manifest.memory_size()),
                        size_in_words(entry.stored), manifest.disks.size(), manifest.architecture,
                        manifest.program, parent);
  }
  return text;
}

std::string json_of(std::span<const snapshot::CatalogEntry> entries) {
  json root = json::array();
  for (const auto& entry : entries) {
    json one;
    one["name"] = entry.name;
    if (!entry.damage.empty()) one["damage"] = entry.damage;
    if (entry.unfinished) {
      one["unfinished"] = true;
      one["stored_bytes"] = entry.stored;
    }
    if (!entry.digest.empty()) {
      one["digest"] = entry.digest;
      one["program"] = entry.manifest.program;
      one["architecture"] = entry.manifest.architecture;
      one["memory_bytes"] = entry.manifest.memory_size();
      one["stored_bytes"] = entry.stored;
      one["disks"] = entry.manifest.disks.size();
      one["depth"] = entry.depth;
      if (entry.manifest.parent) {
        one["parent"] = {{"path", entry.manifest.parent->path},
                         {"digest", entry.manifest.parent->digest}};
      }
    }
    root.push_back(std::move(one));
  }
  return dump(root);
}

Result<SnapshotReport> report_directory(const std::string& directory) {
  auto entry = TRY(snapshot::examine(directory));
  SnapshotReport report{.path = directory,
                        .digest = std::move(entry.digest),
                        .damage = std::move(entry.damage),
                        .depth = entry.depth,
                        .stored = entry.stored};
  report.manifest = std::move(entry.manifest);
  struct stat status{};
  if (::stat((directory + "/" + std::string(snapshot::kMemoryFile)).c_str(), &status) == 0) {
    report.memory_data = static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  const auto state = TRY(snapshot::read_part(directory, snapshot::kStateFile, state::kMaxBytes));
  auto sections = sections_in(std::as_bytes(std::span(state.data(), state.size())));
  if (!sections) return fail("snapshot '{}': {}", directory, sections.error().message());
  report.sections = std::move(*sections);
  return report;
}

Result<SnapshotReport> report_archive(const std::string& file, std::span<const std::string> bases) {
  auto archive = TRY(snapshot::Archive::open(file));
  SnapshotReport report{.path = file};
  report.manifest = archive->manifest();
  report.digest = TRY(snapshot::digest_in(archive->index().manifest));
  report.stored = archive->file_size();
  report.archive = {archive->digest(), archive->header().base, archive->own_pages()};
  for (const auto& run : archive->index().files.back().runs) {
    report.memory_data += run.count * snapshot::kArchivePage;
  }
  // The states may lie in the archive that it builds on.
  if (archive->header().base.empty() || !bases.empty()) {
    const auto chain = TRY(snapshot::chain_of(std::move(archive), bases));
    const auto state = snapshot::read_state(chain);
    if (!state) return fail("archive '{}': {}", file, state.error().message());
    report.sections = TRY(sections_in(*state));
  }
  return report;
}

std::string words_of(const SnapshotReport& report) {
  const auto& manifest = report.manifest;
  auto text = fmt::format("{}: {} of a machine of {}, made by vmm {}\n", report.path,
                          report.archive    ? "an exported snapshot"
                          : manifest.parent ? "an incremental snapshot"
                                            : "a complete snapshot",
                          manifest.architecture, manifest.program);
  text += fmt::format("digest    {}\n", report.digest);
  if (report.archive) {
    text += fmt::format("archive   {}, {} pages stored\n", report.archive->digest,
                        report.archive->pages);
    if (!report.archive->base.empty()) text += fmt::format("base      {}\n", report.archive->base);
  }
  if (manifest.parent) {
    text += fmt::format("parent    {} ({})\n", manifest.parent->path, manifest.parent->digest);
    if (report.depth > 0) text += fmt::format("depth     {} snapshots\n", report.depth);
  }
  if (!report.damage.empty()) text += fmt::format("damage    {}\n", report.damage);
  text += fmt::format("stored    {}\n", size_in_words(report.stored));
  text += fmt::format("memory    {} in {} range{}, {} of data\n",
                      size_in_words(manifest.memory_size()), manifest.memory.size(),
                      manifest.memory.size() == 1 ? "" : "s", size_in_words(report.memory_data));
  text += fmt::format("disks     {}\n", manifest.disks.size());
  for (const auto& disk : manifest.disks) text += disk_in_words(disk);
  if (report.sections.empty() && report.archive) {
    return text + "states    in its base: --base FILE shows them\n";
  }
  text += fmt::format("states    {}\n", report.sections.size());
  for (const auto& section : report.sections) {
    text += fmt::format("  {:<14}{:<18}version {}, {} bytes\n", section.name, section.kind,
                        section.version, section.size);
  }
  return text;
}

std::string json_of(const SnapshotReport& report) {
  json root;
  root[report.archive ? "archive" : "directory"] = report.path;
  root["digest"] = report.digest;
  if (report.archive) {
    root["archive_digest"] = report.archive->digest;
    if (!report.archive->base.empty()) root["base"] = report.archive->base;
    root["stored_pages"] = report.archive->pages;
  }
  if (!report.damage.empty()) root["damage"] = report.damage;
  root["depth"] = report.depth;
  root["stored_bytes"] = report.stored;
  root["memory"] = {{"bytes", report.manifest.memory_size()}, {"data_bytes", report.memory_data}};
  root["sections"] = json::array();
  for (const auto& section : report.sections) {
    root["sections"].push_back({{"name", section.name},
                                {"kind", section.kind},
                                {"version", section.version},
                                {"bytes", section.size}});
  }
  root["manifest"] = parse_ordered_json(snapshot::to_text(report.manifest)).value_or(json());
  return dump(root);
}

}  // namespace vmm::cli
