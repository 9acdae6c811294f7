#include "src/disk/qcow2/check.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <unordered_map>
#include <utility>

#include "src/disk/qcow2/image.h"
#include "src/disk/qcow2/probe.h"
#include "src/disk/qcow2/snapshot_file.h"

namespace vmm::disk::qcow2 {
namespace {

constexpr std::size_t kMaxMessages = 20;
constexpr std::uint64_t kClustersAtOnce = 1u << 16;

// References of clusters, by number; only what is touched takes memory.
class Counts {
 public:
  void add(std::uint64_t cluster) { ++page(cluster)[cluster % kPage]; }
  std::uint64_t get(std::uint64_t cluster) const {
    const auto found = pages_.find(cluster / kPage);
    return found == pages_.end() ? 0 : found->second[cluster % kPage];
  }
  std::vector<std::uint64_t> clusters() const {
    std::vector<std::uint64_t> all;
    for (const auto& [number, counts] : pages_) {
      for (std::size_t i = 0; i < kPage; ++i) {
        if (counts[i] != 0) all.push_back(number * kPage + i);
      }
    }
    std::ranges::sort(all);
    return all;
  }

 private:
  static constexpr std::size_t kPage = 1024;
  std::vector<std::uint32_t>& page(std::uint64_t cluster) {
    auto& counts = pages_[cluster / kPage];
    counts.resize(kPage);
    return counts;
  }
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> pages_;
};

class Checker {
 public:
  Checker(Storage& storage, const Header& header, Progress& progress)
      : storage_(storage), header_(header), refcounts_(storage, header), progress_(progress) {}

  int run(Repair repair);
  CheckResult result() { return std::move(result_); }

 private:
  template <typename... Args>
  void corrupt(fmt::format_string<Args...> format, Args&&... args) {
    ++result_.corruptions;
    if (result_.messages.size() < kMaxMessages) {
      result_.messages.push_back(fmt::format(format, std::forward<Args>(args)...));
    }
  }
  // Counts what lies at an offset; false, and a corruption, when it cannot.
  bool count(const char* what, std::uint64_t offset, std::uint64_t bytes);
  int check_refcount_table();
  int count_tables();
  int count_snapshots();
  enum class Active : std::uint8_t { no, yes };
  int count_l1(std::uint64_t offset, std::uint64_t entries, Active active);
  int count_l2(std::uint64_t offset, std::uint64_t number, Active active);
  void count_entry(std::uint64_t entry, std::uint64_t cluster, Active active);
  int compare(Repair repair);
  int compare_cluster(std::uint64_t cluster, Repair repair);
  int check_copied();
  int finish_repair();
  std::uint64_t cluster_size() const { return header_.cluster_size(); }

  Storage& storage_;
  Header header_;
  Refcounts refcounts_;
  Progress& progress_;
  Counts counts_;
  CheckResult result_;
  struct Copied {
    const char* what;
    std::uint64_t cluster;
    bool flag;
  };
  std::vector<Copied> copied_;  // the flags that active entries have
};

bool Checker::count(const char* what, std::uint64_t offset, std::uint64_t bytes) {
  if (offset >= storage_.size() || bytes > round_up(storage_.size(), cluster_size()) - offset) {
    corrupt("a {} at {:#x} lies behind the end of the file", what, offset);
    return false;
  }
  for (std::uint64_t c = offset / cluster_size(); c <= (offset + bytes - 1) / cluster_size(); ++c) {
    counts_.add(c);
  }
  return true;
}

int Checker::count_l1(std::uint64_t offset, std::uint64_t entries, Active active) {
  if (entries == 0) return 0;
  if (offset % cluster_size() != 0 || entries > kMaxL1Bytes / 8) {
    corrupt("invalid L1 table of {} entries at {:#x}", entries, offset);
    return 0;
  }
  if (!count("L1 table", offset, entries * 8)) return 0;
  std::vector<std::byte> bytes(entries * 8);
  if (const int error = storage_.read(offset, bytes); error != 0) return error;
  std::uint64_t tables = 0;
  for (std::uint64_t i = 0; i < entries; ++i) {
    if (load<std::uint64_t>(&bytes[i * 8]) != 0) ++tables;
  }
  progress_.begin("checking tables", tables * cluster_size());
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < entries; ++i) {
    const auto entry = load<std::uint64_t>(&bytes[i * 8]);
    const std::uint64_t table = entry & kOffsetMask;
    if (entry == 0) continue;
    if ((entry & kReservedL1) != 0) corrupt("L1 entry {} has reserved bits: {:#x}", i, entry);
    if (table == 0) {
      corrupt("L1 entry {} has no L2 table, but is not empty: {:#x}", i, entry);
    } else if (table % cluster_size() != 0) {
      corrupt("L1 entry {} has an L2 table at {:#x}, which does not begin a cluster", i, table);
    } else if (!seen.insert(table).second) {
      corrupt("the L2 table at {:#x} is used twice", table);
    } else if (count("L2 table", table, cluster_size())) {
      if (active == Active::yes) {
        copied_.push_back({"L2 table", table / cluster_size(), (entry & kCopied) != 0});
      }
      if (const int error = count_l2(table, i, active); error != 0) return error;
    }
    if (!progress_.advance(cluster_size())) return kCancelled;
  }
  return 0;
}

int Checker::count_l2(std::uint64_t offset, std::uint64_t number, Active active) {
  std::vector<std::byte> bytes(cluster_size());
  if (const int error = storage_.read(offset, bytes); error != 0) return error;
  for (std::uint64_t i = 0; i < header_.l2_entries(); ++i) {
    count_entry(load<std::uint64_t>(&bytes[i * 8]), number * header_.l2_entries() + i, active);
  }
  return 0;
}

void Checker::count_entry(std::uint64_t entry, std::uint64_t cluster, Active active) {
  const Extent extent = decode_entry(header_, entry);
  if (extent.kind == Extent::Kind::compressed) {
    if ((entry & kCopied) != 0) corrupt("the compressed cluster {} is marked as writable", cluster);
    if (count("compressed cluster", extent.host, extent.packed_size) && active == Active::yes) {
      ++result_.allocated;
    }
    return;
  }
  if ((entry & kReservedL2) != 0) {
    corrupt("the entry of cluster {} has reserved bits: {:#x}", cluster, entry);
  }
  if (extent.host == 0) return;
  if (extent.host % cluster_size() != 0) {
    corrupt("cluster {} lies at {:#x}, which does not begin a cluster", cluster, extent.host);
    return;
  }
  if (!count("cluster", extent.host, cluster_size()) || active == Active::no) return;
  ++result_.allocated;
  copied_.push_back({"cluster", extent.host / cluster_size(), (entry & kCopied) != 0});
}

// Snapshot table: entries of 40 bytes, extra data, id and name, padded to 8 (qcow2.txt,
// "Snapshots").
int Checker::count_snapshots() {
  std::uint64_t at = header_.snapshots_offset;
  if (header_.snapshots == 0) return 0;
  if (at % cluster_size() != 0) {
    corrupt("the snapshot table at {:#x} does not begin a cluster", at);
    return 0;
  }
  for (std::uint32_t i = 0; i < header_.snapshots; ++i) {
    std::array<std::byte, 40> entry{};
    if (at >= storage_.size()) {
      corrupt("the snapshot table leaves the file");
      return 0;
    }
    if (const int error = storage_.read(at, entry); error != 0) return error;
    const auto l1_offset = load<std::uint64_t>(&entry[0]);
    const auto l1_entries = load<std::uint32_t>(&entry[8]);
    const std::uint64_t names =
        std::uint64_t{load<std::uint16_t>(&entry[12])} + load<std::uint16_t>(&entry[14]);
    const std::uint64_t extra = load<std::uint32_t>(&entry[36]);
    at += round_up(entry.size() + extra + names, 8);
    if (const int error = count_l1(l1_offset, l1_entries, Active::no); error != 0) return error;
  }
  (void)count("snapshot table", header_.snapshots_offset, at - header_.snapshots_offset);
  return 0;
}

int Checker::check_refcount_table() {
  std::vector<std::byte> bytes(refcounts_.table().size() * 8);
  if (const int error = storage_.read(header_.refcount_table_offset, bytes); error != 0) {
    return error;
  }
  for (std::size_t i = 0; i < refcounts_.table().size(); ++i) {
    const auto entry = load<std::uint64_t>(&bytes[i * 8]);
    if ((entry & kReservedRefcountTable) != 0) {
      corrupt("refcount table entry {} has reserved bits: {:#x}", i, entry);
    }
  }
  return 0;
}

int Checker::count_tables() {
  if (const int error = check_refcount_table(); error != 0) return error;
  (void)count("header", 0, cluster_size());
  (void)count("refcount table", header_.refcount_table_offset,
              std::uint64_t{header_.refcount_table_clusters} * cluster_size());
  std::set<std::uint64_t> seen;
  for (const auto block : refcounts_.table()) {
    if (block == 0) continue;
    if (block % cluster_size() != 0) {
      corrupt("a refcount block at {:#x} does not begin a cluster", block);
    } else if (!seen.insert(block).second) {
      corrupt("the refcount block at {:#x} is used twice", block);
    } else {
      (void)count("refcount block", block, cluster_size());
    }
  }
  if (const int error = count_l1(header_.l1_offset, header_.l1_entries, Active::yes); error != 0) {
    return error;
  }
  return count_snapshots();
}

int Checker::compare_cluster(std::uint64_t cluster, Repair repair) {
  const auto counted = refcounts_.get(cluster);
  if (!counted) {
    corrupt("the refcount of the cluster at {:#x} cannot be read", cluster * cluster_size());
    return 0;
  }
  const std::uint64_t used = counts_.get(cluster);
  if (*counted == used) return 0;
  const bool leak = *counted > used;
  if (repair == Repair::leaks && (leak || result_.was_dirty) && result_.corruptions == 0) {
    ++result_.repaired;
    return refcounts_.force(cluster, used);
  }
  if (leak) {
    ++result_.leaks;
  } else {
    corrupt("the cluster at {:#x} is used {} times and counted {} times", cluster * cluster_size(),
            used, *counted);
  }
  return 0;
}

int Checker::compare(Repair repair) {
  const std::uint64_t per_block = header_.refcounts_per_block();
  const std::uint64_t bytes_each = std::max<std::uint64_t>(1, cluster_size() / per_block);
  const auto used = counts_.clusters();
  const auto blocks = static_cast<std::uint64_t>(
      std::ranges::count_if(refcounts_.table(), [](std::uint64_t block) { return block != 0; }));
  progress_.begin("checking refcounts", (used.size() + blocks * per_block) * bytes_each);
  std::uint64_t since = 0;
  // A repair that was begun is finished.
  const auto advance = [&](std::uint64_t clusters) {
    since += clusters;
    if (since < kClustersAtOnce) return true;
    const auto result = progress_.advance(std::exchange(since, 0) * bytes_each);
    return result || repair != Repair::none;
  };
  for (const auto cluster : used) {
    if (const int error = compare_cluster(cluster, repair); error != 0) return error;
    if (!advance(1)) return kCancelled;
  }
  // What nothing refers to. Repairing may have added blocks, which are right.
  const auto table = refcounts_.table();
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < table.size(); ++i) {
    if (table[i] == 0 || !seen.insert(table[i]).second) continue;
    for (std::uint64_t c = i * per_block; c < (i + 1) * per_block; ++c) {
      if (counts_.get(c) != 0 || refcounts_.is_new(c)) continue;
      if (const int error = compare_cluster(c, repair); error != 0) return error;
    }
    if (!advance(per_block)) return kCancelled;
  }
  return 0;
}

int Checker::check_copied() {
  for (const auto& [what, cluster, flag] : copied_) {
    const auto counted = refcounts_.get(cluster);
    if (counted && (*counted == 1) != flag) {
      corrupt("the {} at {:#x} has a refcount of {} and is {}marked as writable", what,
              cluster * cluster_size(), *counted, flag ? "" : "not ");
    }
  }
  return 0;
}

int Checker::finish_repair() {
  if (const int error = refcounts_.write_back(); error != 0) return error;
  if (const int error = storage_.sync(); error != 0) return error;
  if (!result_.was_dirty || result_.corruptions > 0) return 0;
  std::array<std::byte, 8> features{};
  store(features.data(), header_.incompatible & ~kIncompatibleDirty);
  if (const int error = storage_.write(kIncompatibleField, features); error != 0) return error;
  return storage_.sync();
}

int Checker::run(Repair repair) {
  result_.clusters = header_.clusters();
  result_.was_dirty = (header_.incompatible & kIncompatibleDirty) != 0;
  if (const int error = refcounts_.read_table(); error != 0) return error;
  if (const int error = count_tables(); error != 0) return error;
  if (const int error = compare(repair); error != 0) return error;
  if (const int error = check_copied(); error != 0) return error;
  return repair == Repair::leaks ? finish_repair() : 0;
}

}  // namespace

Result<CheckResult> check_image(const std::string& path, Repair repair, Progress& progress) {
  if (repair != Repair::none) TRY(refuse_snapshot_file(path));
  DiskConfig config;
  config.path = path;
  config.read_only = repair == Repair::none;
  if (TRY(probe_format(path)) == ImageFormat::raw) {
    // Tells first what is wrong with the path, if anything.
    TRY(RawFile::open(config, RawFile::Content::format));
    return fail("disk '{}' is raw: only a qcow2 image has anything to check", path);
  }
  Storage storage(TRY(RawFile::open(config, RawFile::Content::format)));
  const auto header = TRY(read_header(storage));
  if ((header.autoclear & kAutoclearBitmaps) != 0) {
    return fail(
        "disk '{}' has persistent bitmaps, which cannot be checked here; `qemu-img check` can",
        path);
  }
  Checker checker(storage, header, progress);
  if (const int error = checker.run(repair); error != 0) {
    return fail_errno_text(error, fmt::format("cannot check disk '{}'", path));
  }
  return checker.result();
}

}  // namespace vmm::disk::qcow2
