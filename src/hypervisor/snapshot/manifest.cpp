#include "src/hypervisor/snapshot/manifest.h"

#include <nlohmann/json.hpp>
#include <sys/utsname.h>

#include <algorithm>

#include "src/base/json.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/files.h"

namespace vmm::snapshot {
namespace {

// Keys in the order of their insertion: the version is the first thing that a reader sees.
using json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "vmm-snapshot";
constexpr std::string_view kLayerFormat = "qcow2";
constexpr std::size_t kMaxRanges = 1024;
constexpr std::size_t kMaxDisks = 256;

std::string dump(const json& root) {
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

json to_json(const Manifest& manifest) {
  json root;
  root["format"] = kFormat;
  root["version"] = manifest.version();
  root["architecture"] = manifest.architecture;
  root["program"] = manifest.program;
  if (manifest.parent) {
    root["parent"] = {{"path", manifest.parent->path}, {"digest", manifest.parent->digest}};
  }
  root["memory"]["digest"] = manifest.memory_digest;
  root["memory"]["ranges"] = json::array();
  for (const auto& range : manifest.memory) {
    root["memory"]["ranges"].push_back({{"address", range.base.value}, {"size", range.size}});
  }
  root["state"]["digest"] = manifest.state_digest;
  for (const auto& file : manifest.boot) {
    auto& entry = root["boot"][file.name];
    entry = {{"size", file.size}, {"digest", file.digest}};
    if (file.of_parent) entry["of_parent"] = true;
  }
  root["disks"] = json::array();
  for (const auto& disk : manifest.disks) {
    json entry;
    entry["device"] = disk.device;
    entry["path"] = disk.path;
    entry["size"] = disk.size;
    if (disk.file.empty()) {
      entry["modified_ns"] = disk.modified_ns;
    } else {
      entry["file"] = disk.file;
      if (disk.modified_ns != 0) entry["modified_ns"] = disk.modified_ns;
      if (disk.layer) {
        entry["format"] = kLayerFormat;
        entry["file_size"] = disk.file_size;
      }
      entry["digest"] = disk.digest;
    }
    root["disks"].push_back(std::move(entry));
  }
  root["config"] = parse_ordered_json(manifest.config).value_or(json());
  if (!manifest.attachments.empty()) {
    root["attachments"] = parse_ordered_json(manifest.attachments).value_or(json());
  }
  return root;
}

Result<json> parse_text(const std::string& text) {
  if (text.size() > kMaxManifest) {
    return fail("its manifest has {} bytes: expected at most {}", text.size(), kMaxManifest);
  }
  auto root = parse_ordered_json(text);
  if (!root) return fail("its manifest cannot be read: {}", root.error().message());
  if (!root->is_object()) return fail("it is not the manifest of a snapshot");
  return root;
}

// A file's name inside of the directory: no way out of it.
Result<std::string> checked_name(const std::string& name) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
  const bool reserved = is_fixed_name(name) || name.ends_with(".partial");
  if (name.empty() || name.find('/') != std::string::npos || name.front() == '.' || reserved ||
      name.size() > 255 || std::ranges::any_of(name, is_control)) {
    return fail("'{}' is not the name of a disk's file in a snapshot", name);
  }
  return name;
}

Result<std::vector<BootFile>> boot_from_json(const json& root, bool has_parent) {
  std::vector<BootFile> boot;
  for (const auto name : {kKernelFile, kInitrdFile}) {
    const auto entry = root.find(name);
    if (entry == root.end()) continue;
    BootFile file;
    file.name = name;
    file.size = entry->at("size").get<std::uint64_t>();
    file.digest = entry->at("digest").get<std::string>();
    file.of_parent = entry->value("of_parent", false);
    if (file.of_parent && !has_parent) {
      return fail("its file '{}' is its parent's, but it has no parent", name);
    }
    boot.push_back(std::move(file));
  }
  if (boot.empty() || boot.front().name != kKernelFile) {
    return fail("it says what a reset boots, but no kernel");
  }
  return boot;
}

Result<DiskEntry> disk_from_json(const json& entry) {
  DiskEntry disk;
  disk.device = entry.at("device").get<std::string>();
  disk.path = entry.at("path").get<std::string>();
  disk.size = entry.at("size").get<std::uint64_t>();
  if (!entry.contains("file")) {
    disk.modified_ns = entry.at("modified_ns").get<std::int64_t>();
    return disk;
  }
  disk.modified_ns = entry.value("modified_ns", std::int64_t{0});
  disk.file = TRY(checked_name(entry["file"].get<std::string>()));
  disk.digest = entry.at("digest").get<std::string>();
  if (!entry.contains("format")) return disk;
  if (entry["format"] != kLayerFormat) {
    return fail("the format of its file '{}' is {}", disk.file, entry["format"].dump());
  }
  disk.layer = true;
  disk.file_size = entry.at("file_size").get<std::uint64_t>();
  return disk;
}

Result<Manifest> from_json(const json& root) {
  Manifest manifest;
  manifest.architecture = root.at("architecture").get<std::string>();
  manifest.program = root.at("program").get<std::string>();
  if (root.contains("parent")) {
    manifest.parent = Parent{root["parent"].at("path").get<std::string>(),
                             root["parent"].at("digest").get<std::string>()};
  }
  const auto& memory = root.at("memory");
  manifest.memory_digest = memory.at("digest").get<std::string>();
  std::uint64_t end = 0;
  for (const auto& entry : memory.at("ranges")) {
    const MemoryRange range{GuestAddress{entry.at("address").get<std::uint64_t>()},
                            entry.at("size").get<std::uint64_t>()};
    constexpr std::uint64_t kMost = std::uint64_t{1} << 52;
    if (range.base.value < end || range.base.value > kMost || range.size == 0 ||
        range.size > kMost || range.size % 4096 != 0) {
      return fail("invalid memory range at {:#x} of {} bytes", range.base.value, range.size);
    }
    end = range.base.value + range.size;
    if (manifest.memory.size() == kMaxRanges)
      return fail("more than {} ranges of memory", kMaxRanges);
    manifest.memory.push_back(range);
  }
  manifest.state_digest = root.at("state").at("digest").get<std::string>();
  if (const auto boot = root.find("boot"); boot != root.end()) {
    manifest.boot = TRY(boot_from_json(*boot, manifest.parent.has_value()));
  }
  for (const auto& entry : root.at("disks")) {
    if (manifest.disks.size() == kMaxDisks) return fail("more than {} disks", kMaxDisks);
    auto disk = TRY(disk_from_json(entry));
    const auto same = [&](const DiskEntry& other) { return other.file == disk.file; };
    if (!disk.file.empty() && std::ranges::any_of(manifest.disks, same)) {
      return fail("two of its disks are the file '{}'", disk.file);
    }
    if (disk.layer && !manifest.parent) {
      return fail("its file '{}' is a layer, but it has no parent", disk.file);
    }
    manifest.disks.push_back(std::move(disk));
  }
  manifest.config = root.at("config").dump(2);
  if (root.contains("attachments")) manifest.attachments = root["attachments"].dump(2);
  return manifest;
}

}  // namespace

std::uint64_t Manifest::memory_size() const {
  std::uint64_t total = 0;
  for (const auto& range : memory) total += range.size;
  return total;
}

unsigned Manifest::version() const {
  if (typed || !boot.empty()) return 3;
  return std::ranges::any_of(disks, &DiskEntry::layer) ? 2 : 1;
}

std::vector<KeptFile> Manifest::files() const {
  std::vector<KeptFile> files;
  for (const auto& file : boot) {
    if (!file.of_parent) files.push_back(file);
  }
  for (const auto& disk : disks) {
    if (disk.file.empty()) continue;
    files.push_back({disk.file, disk.layer ? disk.file_size : disk.size, disk.digest});
  }
  return files;
}

const DiskEntry* Manifest::disk(std::string_view device) const {
  const auto found = std::ranges::find(disks, device, &DiskEntry::device);
  return found == disks.end() ? nullptr : &*found;
}

std::string_view host_architecture() {
  static const utsname name = [] {
    utsname n{};
    ::uname(&n);
    return n;
  }();
  return name.machine;
}

std::string to_text(const Manifest& manifest) {
  json root = to_json(manifest);
  root["digest"] = digest_of(dump(root));
  return dump(root);
}

Result<std::string> digest_in(const std::string& text) {
  const auto root = TRY(parse_text(text));
  const auto digest = root.find("digest");
  if (digest == root.end() || !digest->is_string()) return fail("its manifest has no digest");
  return digest->get<std::string>();
}

Result<Manifest> parse_manifest(const std::string& text) {
  auto root = TRY(parse_text(text));
  try {
    if (root.value("format", "") != kFormat) return fail("it is not the manifest of a snapshot");
    const auto version = root.at("version").get<unsigned>();
    if (version < kFirstVersion || version > kLastVersion) {
      return fail("it has version {} of the format, this program reads versions {} to {}", version,
                  kFirstVersion, kLastVersion);
    }
    const auto digest = root.at("digest").get<std::string>();
    const std::string whole = dump(root);
    root.erase("digest");
    if (digest_of(dump(root)) != digest || whole != text) {
      return fail("digest mismatch: the manifest was altered");
    }
    auto manifest = TRY(from_json(root));
    manifest.typed = version > 2;
    if (manifest.version() > version) {
      return fail("it has version {} of the format, but what version {} added", version,
                  manifest.version());
    }
    return manifest;
  } catch (const json::exception& error) {
    return fail("its manifest cannot be read: {}", error.what());
  }
}

}  // namespace vmm::snapshot
