#include "src/disk/qcow2/image.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "src/base/log.h"

namespace vmm::disk::qcow2 {
namespace {

std::unexpected<Error> fail_io(int error, const std::string& name, const char* what) {
  return fail_errno_text(error, fmt::format("cannot read the {} of disk '{}'", what, name));
}

}  // namespace

Extent decode_entry(const Header& header, std::uint64_t entry) {
  Extent extent;
  if ((entry & kCompressed) != 0) {
    const std::uint32_t shift = 62 - (header.cluster_bits - 8);
    const std::uint64_t sectors =
        ((entry >> shift) & ((1ull << (header.cluster_bits - 8)) - 1)) + 1;
    extent.kind = Extent::Kind::compressed;
    extent.host = entry & ((1ull << shift) - 1);
    extent.packed_size = sectors * 512 - (extent.host & 511);
    return extent;
  }
  extent.host = entry & kOffsetMask;
  if (header.version >= 3 && (entry & kZero) != 0) {
    extent.kind = Extent::Kind::zero;
  } else if (extent.host != 0) {
    extent.kind = Extent::Kind::data;
    extent.writable = (entry & kCopied) != 0;
  }
  return extent;
}

Image::Image(std::unique_ptr<RawFile> file, Access access)
    : storage_(std::move(file)), access_(access) {}

Image::~Image() {
  if (access_ == Access::read || !refcounts_ || abandoned_) return;
  const int error = settle();
  // check: unlimited-log allowed, once an image
  if (error != 0) log::error("disk '{}' was not closed well: {}", name(), std::strerror(error));
}

Result<Header> read_header(const Storage& storage) {
  const std::string& name = storage.file().name();
  std::array<std::byte, 24> start{};
  if (const int error = storage.read(0, start); error != 0) return fail_io(error, name, "header");
  std::vector<std::byte> cluster(TRY(header_extent(start, name)));
  if (const int error = storage.read(0, cluster); error != 0) {
    return fail_io(error, name, "header");
  }
  return parse_header(cluster, storage.size(), name);
}

Result<std::unique_ptr<Image>> Image::open(std::unique_ptr<RawFile> file, Access access) {
  std::unique_ptr<Image> image(new Image(std::move(file), access));
  image->header_ = TRY(read_header(image->storage_));
  TRY(image->load_tables());
  if (access == Access::write) TRY(image->prepare_writing());
  return image;
}

Result<void> Image::load_tables() {
  std::vector<std::byte> bytes(std::uint64_t{header_.l1_entries} * 8);
  if (const int error = storage_.read(header_.l1_offset, bytes); error != 0) {
    return fail_io(error, name(), "L1 table");
  }
  l1_.resize(header_.l1_entries);
  for (std::size_t i = 0; i < l1_.size(); ++i) l1_[i] = load<std::uint64_t>(&bytes[i * 8]);
  cache_ = std::make_unique<L2Cache>(header_);
  return {};
}

Result<void> Image::prepare_writing() {
  if ((header_.incompatible & kIncompatibleDirty) != 0) {
    return fail(
        "disk '{}' was not closed well, its refcounts are out of date: run `vmm disk check "
        "--repair {}` first",
        name(), name());
  }
  if ((header_.incompatible & kIncompatibleCorrupt) != 0) {
    return fail("disk '{}' is marked as damaged; `vmm disk convert` may save what it has", name());
  }
  if (storage_.file().direct() && header_.cluster_size() < storage_.file().info().block_size) {
    return fail("disk '{}' has clusters of {} bytes, too small for direct I/O; leave ',direct' out",
                name(), header_.cluster_size());
  }
  refcounts_ = std::make_unique<Refcounts>(storage_, header_);
  if (const int error = refcounts_->read_table(); error != 0) {
    return fail_io(error, name(), "refcount table");
  }
  std::vector<std::uint64_t> tables;
  for (const auto entry : l1_) {
    // One that does not begin a cluster is never used.
    const std::uint64_t offset = entry & kOffsetMask;
    if (offset != 0 && offset % header_.cluster_size() == 0) {
      tables.push_back(offset >> header_.cluster_bits);
    }
  }
  if (const auto twice = refcounts_->find_metadata(header_, std::move(tables))) {
    return fail(
        "disk '{}' is damaged: two of its tables use the cluster at {:#x}; `vmm disk convert` may "
        "save what it has",
        name(), *twice << header_.cluster_bits);
  }
  // A last cluster that the file has not all of would be an end of the file to transfers.
  if (const int error = storage_.grow(round_up(storage_.size(), header_.cluster_size()));
      error != 0 && error != ENOSPC) {
    return fail_errno_text(error, fmt::format("cannot extend disk '{}'", name()));
  }
  if (header_.autoclear == 0) return {};
  // Features that only hold while everyone who writes knows them (persistent bitmaps).
  const std::array<std::byte, 8> none{};
  int error = storage_.write(kAutoclearField, none);
  if (error == 0) error = storage_.sync();
  if (error != 0) return fail_errno_text(error, fmt::format("cannot write to disk '{}'", name()));
  header_.autoclear = 0;
  return {};
}

// ---- looking up

Extent Image::classify(std::uint64_t entry) const {
  Extent extent = decode_entry(header_, entry);
  if (!extent.writable) return extent;
  extent.writable = access_ == Access::write && extent.host < storage_.size() &&
                    header_.cluster_size() <= storage_.size() - extent.host;
  return extent;
}

// A damaged image does not get its guest to write over header, tables or refcounts: an extent that
// begins in them is not writable, another one ends before them.
void Image::keep_from_metadata(Extent& extent) const {
  const std::uint64_t cluster = extent.host >> header_.cluster_bits;
  const std::uint64_t begin = cluster << header_.cluster_bits;
  const std::uint64_t count =
      ((extent.host + extent.length - 1) >> header_.cluster_bits) - cluster + 1;
  const std::uint64_t fine = refcounts_->data_from(cluster, count);
  if (fine == count) return;
  extent.writable = fine > 0;
  const std::uint64_t end = begin + std::max<std::uint64_t>(fine, 1) * header_.cluster_size();
  extent.length = std::min(extent.length, end - extent.host);
}

std::expected<L2Table*, int> Image::load_table(std::uint32_t l1_index) {
  if (L2Table* cached = cache_->find(l1_index)) return cached;
  const std::uint64_t offset = l1_[l1_index] & kOffsetMask;
  if (offset % header_.cluster_size() != 0 || offset >= storage_.size()) {
    return std::unexpected(EIO);
  }
  L2Table table;
  table.l1_index = l1_index;
  table.offset = offset;
  table.entries.resize(header_.l2_entries());
  if (const int error = storage_.read(offset, std::as_writable_bytes(std::span(table.entries)));
      error != 0) {
    return std::unexpected(error);
  }
  return &cache_->insert(std::move(table));
}

std::expected<Extent, int> Image::map(std::uint64_t offset, std::uint64_t length,
                                      Grace::Token* token) {
  std::lock_guard lock(mutex_);
  if (token != nullptr) *token = grace_.enter();
  const std::uint64_t cluster_size = header_.cluster_size();
  const std::uint64_t within = offset & (cluster_size - 1);
  const auto l1_index = static_cast<std::uint32_t>(offset / header_.l2_span());
  length = std::min(length, header_.l2_span() - (offset & (header_.l2_span() - 1)));
  if ((l1_[l1_index] & kOffsetMask) == 0) {
    Extent nothing;
    nothing.length = length;
    return nothing;
  }
  const L2Table* table = nullptr;
  if (const auto loaded = load_table(l1_index)) {
    table = *loaded;
  } else {
    return std::unexpected(loaded.error());
  }
  std::uint64_t index = (offset >> header_.cluster_bits) & (header_.l2_entries() - 1);
  Extent extent = classify(table->get(index));
  extent.length = cluster_size - within;
  const bool data = extent.kind == Extent::Kind::data;
  if (extent.kind == Extent::Kind::compressed) {
    extent.length = std::min(extent.length, length);
    if (extent.host >= storage_.size()) return std::unexpected(EIO);
    return extent;
  }
  // Of zeroes too, which may have a cluster: the entry is damaged, and so may be what it says.
  if (extent.host % cluster_size != 0) return std::unexpected(EIO);
  while (extent.length < length) {
    const Extent next = classify(table->get(++index));
    if (next.kind != extent.kind || next.writable != extent.writable) break;
    if (data && next.host != extent.host + within + extent.length) break;
    if (next.host % cluster_size != 0) break;
    extent.length += cluster_size;
  }
  extent.length = std::min(extent.length, length);
  if (!data) return extent;
  extent.host += within;
  // What lies behind the end of the file reads as zeroes.
  if (extent.host >= storage_.size()) {
    extent.kind = Extent::Kind::zero;
    extent.writable = false;
  } else {
    extent.length = std::min(extent.length, storage_.size() - extent.host);
    if (extent.writable) keep_from_metadata(extent);
  }
  return extent;
}

Grace::Token Image::enter() {
  std::lock_guard lock(mutex_);
  return grace_.enter();
}

int Image::write_size() {
  std::byte field[8];
  store(field, header_.size);
  const int error = storage_.write(kSizeField, field);
  return error != 0 ? error : storage_.sync();
}

// What is dirty is written first, so that the copy is what the file had. The old table's clusters
// are freed last.
int Image::grow_l1(std::uint32_t entries) {
  if (const int error = settle(); error != 0) return error;
  std::scoped_lock lock(flush_mutex_, mutex_);
  changed();
  const auto clusters = [&](std::uint64_t count) {
    return round_up(count * 8, header_.cluster_size()) >> header_.cluster_bits;
  };
  const std::uint64_t count = clusters(entries);
  const auto first = refcounts_->append(count);
  if (!first) return first.error();
  const std::uint64_t offset = *first << header_.cluster_bits;
  std::vector<std::byte> table(count << header_.cluster_bits);
  for (std::size_t i = 0; i < l1_.size(); ++i) store(&table[i * 8], l1_[i]);
  int error = storage_.write(offset, table);
  if (error == 0) error = refcounts_->write_back();
  if (error == 0) error = storage_.sync();
  std::byte fields[12];
  store(fields, entries);
  store(fields + 4, offset);
  if (error == 0) error = storage_.write(kL1Field, fields);
  if (error == 0) error = storage_.sync();
  if (error != 0) return error;
  const std::uint64_t old = header_.l1_offset >> header_.cluster_bits;
  const std::uint64_t old_count = clusters(header_.l1_entries);
  header_.l1_entries = entries;
  header_.l1_offset = offset;
  l1_.resize(entries);
  cache_->grow(entries);
  for (std::uint64_t i = 0; i < count; ++i) refcounts_->add_metadata(*first + i);
  for (std::uint64_t i = 0; i < old_count && error == 0; ++i) {
    refcounts_->remove_metadata(old + i);
    error = refcounts_->decrement(old + i);
  }
  if (error == 0) error = refcounts_->write_back();
  return error != 0 ? error : storage_.sync();
}

// ---- changing

std::expected<Run, int> Image::allocate(std::uint64_t most) {
  std::lock_guard lock(mutex_);
  changed();
  return refcounts_->allocate(most);
}

void Image::give_back(const Run& run) {
  std::lock_guard lock(mutex_);
  changed();
  for (std::uint64_t i = 0; i < run.count; ++i) {
    (void)refcounts_->set(run.first + i, 0);  // a failure leaks the cluster
  }
}

std::expected<L2Table*, int> Image::writable_table(std::uint32_t l1_index) {
  const std::uint64_t entry = l1_[l1_index];
  const std::uint64_t old = entry & kOffsetMask;
  L2Table table;
  if (old != 0) {
    const auto loaded = load_table(l1_index);
    if (!loaded || (entry & kCopied) != 0) return loaded;
    table.entries = (*loaded)->entries;  // a snapshot has it too
  } else {
    table.entries.resize(header_.l2_entries());
  }
  const auto run = refcounts_->allocate(1);
  if (!run) return std::unexpected(run.error());
  L2Table* target = cache_->find(l1_index);
  if (target == nullptr) {
    table.l1_index = l1_index;
    target = &cache_->insert(std::move(table));
  }
  refcounts_->add_metadata(run->first);
  target->offset = run->first << header_.cluster_bits;
  target->fresh = true;
  cache_->mark_dirty(*target, 0, header_.l2_entries());
  l1_[l1_index] = target->offset | kCopied;
  dirty_l1_.push_back(l1_index);
  if (old != 0) {
    refcounts_->remove_metadata(old >> header_.cluster_bits);
    freed_.push_back({old >> header_.cluster_bits, grace_.epoch()});
  }
  return target;
}

void Image::release(std::uint64_t entry) {
  const Extent extent = decode_entry(header_, entry);
  if (extent.host == 0) return;
  const std::uint64_t size = extent.kind == Extent::Kind::compressed ? extent.packed_size : 1;
  for (std::uint64_t c = extent.host >> header_.cluster_bits;
       c <= (extent.host + size - 1) >> header_.cluster_bits; ++c) {
    freed_.push_back({c, grace_.epoch()});
  }
}

int Image::link(std::uint64_t first, const Run& run) {
  std::lock_guard lock(mutex_);
  changed();
  const auto table = writable_table(static_cast<std::uint32_t>(first >> header_.l2_bits()));
  if (!table) return table.error();
  for (std::uint64_t i = 0; i < run.count; ++i) {
    const std::uint64_t index = (first + i) & (header_.l2_entries() - 1);
    release((*table)->get(index));
    cache_->set(**table, index, ((run.first + i) << header_.cluster_bits) | kCopied);
  }
  return 0;
}

int Image::link_compressed(std::uint64_t cluster, std::uint64_t host, std::uint64_t size) {
  std::lock_guard lock(mutex_);
  changed();
  const auto table = writable_table(static_cast<std::uint32_t>(cluster >> header_.l2_bits()));
  if (!table) return table.error();
  const std::uint32_t shift = 62 - (header_.cluster_bits - 8);
  const std::uint64_t sectors = ((host & 511) + size + 511) / 512 - 1;
  const std::uint64_t index = cluster & (header_.l2_entries() - 1);
  release((*table)->get(index));
  cache_->set(**table, index, kCompressed | (sectors << shift) | host);
  // The clusters were allocated with one reference, which is that of their first entry.
  const std::uint64_t first = host >> header_.cluster_bits;
  if ((host & (header_.cluster_size() - 1)) == 0) return 0;
  const auto count = refcounts_->get(first);
  if (!count) return count.error();
  return refcounts_->set(first, *count + 1);
}

int Image::unlink(std::uint64_t first, std::uint64_t count, Leaves leaves) {
  std::lock_guard lock(mutex_);
  const auto l1_index = static_cast<std::uint32_t>(first >> header_.l2_bits());
  if ((l1_[l1_index] & kOffsetMask) == 0 && leaves == Leaves::nothing) return 0;
  changed();
  const auto table = writable_table(l1_index);
  if (!table) return table.error();
  const std::uint64_t entry = leaves == Leaves::zeroes ? kZero : 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t index = (first + i) & (header_.l2_entries() - 1);
    const std::uint64_t old = (*table)->get(index);
    if (old == entry) continue;
    release(old);
    cache_->set(**table, index, entry);
  }
  return 0;
}

}  // namespace vmm::disk::qcow2
