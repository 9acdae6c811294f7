// For the tests of snapshots: a directory of its own, a small memory, and saving it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "src/base/file_time.h"
#include "src/hypervisor/snapshot/boot_files.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/reader.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {

namespace fs = std::filesystem;

inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::array<MemoryRange, 2> kRanges = {
    MemoryRange{GuestAddress{0}, 1u << 20}, MemoryRange{GuestAddress{4ull << 30}, 1u << 20}};
inline constexpr std::array<Extent, 1> kAll = {Extent{0, 2u << 20}};  // of them, flat

struct Example {
  static constexpr std::string_view kKind = "example";
  static constexpr std::uint32_t kVersion = 1;
  std::uint32_t value = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, value);
  }
};

class SnapshotTest : public ::testing::Test {
 protected:
  SnapshotTest() {
    std::string pattern = (fs::temp_directory_path() / "vmm-snapshot-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    memory_ = std::move(*GuestMemory::create(kRanges));
    fill(GuestAddress{kPage}, 'a');
    fill(GuestAddress{2 * kPage}, 'b');
    fill(GuestAddress{(4ull << 30) + 3 * kPage}, 'c');
  }
  ~SnapshotTest() override { fs::remove_all(root_); }

  void fill(GuestAddress page, char with) { fill(*memory_, page, with); }
  static void fill(const GuestMemory& memory, GuestAddress page, char with) {
    std::memset(memory.slice(page, kPage)->data(), with, kPage);
  }
  static char first_byte(const GuestMemory& memory, std::uint64_t address) {
    return *memory.read<char>(GuestAddress{address});
  }
  std::string path(const std::string& name) const { return root_ + "/" + name; }

  // A snapshot of memory_, with one state and one disk.
  Result<void> save(const std::string& name, const std::string& parent = "",
                    std::span<const Extent> candidates = {}) {
    auto writer = TRY(Writer::create(path(name)));
    Manifest manifest;
    manifest.architecture = architecture_;
    manifest.program = "test";
    manifest.config = config_;
    manifest.typed = false;  // as in versions 1 and 2
    for (const auto& region : memory_->regions()) manifest.memory.push_back(region.range);
    const auto file = TRY(writer->create_file(kMemoryFile));
    if (::ftruncate(file.get(), static_cast<off_t>(manifest.memory_size())) < 0) {
      return fail_errno("truncate");
    }
    MemoryLayer layer;
    if (parent.empty()) {
      TRY(write_pages(*memory_, TRY(touched_pages(*memory_)), file.get()));
    } else {
      const auto reader = TRY(Reader::open(path(parent), Verify::sealed, Hosts::any));
      const auto before = TRY(reader->map_memory());
      layer.complete = false;
      layer.extents = TRY(write_changed_pages(*memory_, *before, candidates, file.get()));
      manifest.parent = TRY(parent_of(*writer, *reader));
    }
    manifest.memory_digest = TRY(digest_of_sparse(file.get(), manifest.memory_size()));
    state::Sections sections;
    sections.put("example", Example{42});
    if (with_rng_) sections.put("rng", Example{1});
    sections.put(kMemorySection, layer);
    const auto bytes = TRY(sections.to_bytes());
    if (!kernel_.empty()) manifest.boot = TRY(kept_boot(*writer, parent));
    if (!read_only_disk_.empty()) manifest.disks.push_back(TRY(referred_disk()));
    manifest.state_digest = digest_of(bytes);
    TRY(writer->write_file(kStateFile, bytes));
    manifest.disks.push_back(TRY(parent.empty()
                                     ? copied_disk(*writer)
                                     : layer_of_disk(*writer, path(parent), *manifest.parent)));
    return writer->publish(manifest, origin_);
  }

  Result<std::vector<BootFile>> kept_boot(const Writer& writer, const std::string& parent) const {
    const auto files = TRY(open_boot_files(kernel_, initrd_));
    if (parent.empty()) return keep_boot_files(writer, files, nullptr);
    const auto reader = TRY(Reader::open(path(parent), Verify::sealed, Hosts::any));
    return keep_boot_files(writer, files, &reader->manifest());
  }

  Result<DiskEntry> copied_disk(const Writer& writer) const {
    DiskEntry entry;
    entry.device = "blk0";
    entry.file = "blk0.img";
    entry.path = disk_path_;
    entry.size = disk_.size();
    struct stat status{};
    if (::stat(disk_path_.c_str(), &status) == 0) entry.modified_ns = nanoseconds(status.st_mtim);
    TRY(writer.write_file(entry.file, std::as_bytes(std::span(disk_))));
    TRY(complete_entry(writer, entry));
    return entry;
  }
  // The chunks that are not what they are in the parent.
  Result<DiskEntry> layer_of_disk(const Writer& writer, const std::string& below_path,
                                  const Parent& parent) const {
    const auto reader = TRY(Reader::open(below_path, Verify::sealed, Hosts::any));
    const auto* below = reader->manifest().disk("blk0");
    const auto chain = TRY(open_disk_file(reader->disk_path(*below), *below));
    DiskEntry entry;
    entry.device = "blk0";
    entry.path = "root.img";
    entry.size = disk_.size();
    const auto target = TRY(create_layer(writer, entry, parent, *below));
    const std::size_t step = disk::CopiedDisk::kChunk;
    for (std::size_t at = 0; at < disk_.size(); at += step) {
      const auto now = disk_.substr(at, step);
      std::string before(now.size(), '?');
      if (chain->read(at, std::as_writable_bytes(std::span(before))) != 0) return fail("read");
      if (now != before) TRY(target->write(at, std::as_bytes(std::span(now))));
    }
    TRY(target->finish());
    TRY(complete_entry(writer, entry));
    return entry;
  }

  // The manifest's words for a disk that is only referred to.
  Result<DiskEntry> referred_disk() const {
    struct stat status{};
    if (::stat(read_only_disk_.c_str(), &status) < 0) return fail_errno("stat");
    DiskEntry entry;
    entry.device = "blk1";
    entry.path = read_only_disk_;
    entry.size = static_cast<std::uint64_t>(status.st_size);
    entry.modified_ns = nanoseconds(status.st_mtim);
    return entry;
  }

  // "" when the snapshot is whole.
  std::string refusal(const std::string& name, Verify verify = Verify::sealed) {
    const auto reader = Reader::open(path(name), verify);
    return reader ? "" : reader.error().message();
  }

  std::string root_;
  std::string disk_ = std::string(4096, 'd');
  std::string disk_path_ = "root.img";
  Origin origin_ = Origin::other;
  bool with_rng_ = false;        // a state of that name
  std::string read_only_disk_;   // its path, or none
  std::string kernel_, initrd_;  // their paths, or none
  std::string config_ = R"({"mem": "2M"})";
  std::string architecture_{host_architecture()};
  std::unique_ptr<GuestMemory> memory_;
};

}  // namespace vmm::snapshot
