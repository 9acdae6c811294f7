#include "devices/backend/disk/qcow2/resize.h"

#include <unistd.h>

#include <algorithm>

#include "devices/backend/disk/qcow2/chain.h"
#include "devices/backend/disk/qcow2/snapshot_file.h"

namespace vmm::disk::qcow2 {
namespace {

Result<std::uint64_t> new_size(const ResizeOptions& options, std::uint64_t old) {
  std::uint64_t size = options.size;
  if (options.size > kMaxDiskSize || (options.relative && old > kMaxDiskSize - options.size)) {
    return fail("a disk of {}{} bytes is too large: expected at most {}",
                options.relative ? fmt::format("{} + ", old) : "", options.size, kMaxDiskSize);
  }
  if (options.relative) size += old;
  if (size == 0 || size % kSectorSize != 0) {
    return fail("invalid disk size of {} bytes: expected a multiple of {}", size, kSectorSize);
  }
  if (size < old && options.shrink == Shrink::refused) {
    return fail(
        "disk '{}' has {} bytes, and what lies behind {} would be lost: say --shrink to allow it",
        options.path, old, size);
  }
  return size;
}

Result<void> resize_raw(Chain& chain, std::uint64_t size) {
  RawFile& file = chain.file(0);
  if (file.kind() != RawFile::Kind::file) {
    return fail("disk '{}' is a block device, which cannot be resized here", chain.name());
  }
  if (::ftruncate(file.fd(), static_cast<off_t>(size)) < 0 || ::fsync(file.fd()) < 0) {
    return fail_errno("cannot resize disk '{}'", chain.name());
  }
  return {};
}

// A larger copy of the L1 table, which the header then names; the old one's clusters are freed
// last.
int grow_l1(Image& image, std::uint32_t entries) {
  Storage& storage = image.storage();
  const Header& header = image.header();
  Refcounts refcounts(storage, header);
  if (const int error = refcounts.read_table(); error != 0) return error;
  (void)refcounts.find_metadata(header, {});  // opening the image looked at what it returns
  const std::uint64_t old_bytes = std::uint64_t{header.l1_entries} * 8;
  const auto clusters = [&](std::uint64_t bytes) {
    return round_up(bytes, header.cluster_size()) >> header.cluster_bits;
  };
  const std::uint64_t count = clusters(std::uint64_t{entries} * 8);
  const auto first = refcounts.append(count);
  if (!first) return first.error();
  const std::uint64_t offset = *first << header.cluster_bits;
  std::vector<std::byte> table(count << header.cluster_bits);
  int error = storage.read(header.l1_offset, std::span(table).first(old_bytes));
  if (error == 0) error = storage.write(offset, table);
  if (error == 0) error = refcounts.write_back();
  if (error == 0) error = storage.sync();
  std::byte fields[12];
  store(fields, entries);
  store(fields + 4, offset);
  if (error == 0) error = storage.write(kL1Field, fields);
  if (error == 0) error = storage.sync();
  for (std::uint64_t i = 0; i < clusters(old_bytes) && error == 0; ++i) {
    const std::uint64_t cluster = (header.l1_offset >> header.cluster_bits) + i;
    refcounts.remove_metadata(cluster);
    error = refcounts.decrement(cluster);
  }
  if (error == 0) error = refcounts.write_back();
  return error != 0 ? error : storage.sync();
}

// Zeroes for what would be seen of the backing file, and behind the old end of the last cluster.
int zero_new_part(Chain& chain, std::uint64_t old) {
  const std::uint64_t seen = chain.has_backing() ? chain.layer_size(1) : 0;
  const std::uint64_t tail = round_up(old, chain.top().header().cluster_size());
  Request request;
  request.operation = Operation::write_zeroes;
  request.may_unmap = true;
  request.offset = old;
  request.length = std::min(std::max(seen, tail), chain.size()) - old;
  return request.length == 0 ? 0 : chain.perform(request);
}

int drop_old_part(Chain& chain, std::uint64_t size) {
  Image& image = chain.top();
  const Header& header = image.header();
  std::uint64_t first = round_up(size, header.cluster_size()) >> header.cluster_bits;
  while (first < header.clusters()) {
    const std::uint64_t count = std::min(header.l2_entries() - (first & (header.l2_entries() - 1)),
                                         header.clusters() - first);
    if (const int error = image.flush_when_due(); error != 0) return error;
    if (const int error = image.unlink(first, count, Image::Leaves::nothing); error != 0) {
      return error;
    }
    first += count;
  }
  return 0;
}

Result<void> resize_image(std::unique_ptr<Chain> chain, const DiskConfig& config,
                          std::uint64_t size) {
  if (chain->top().header().snapshots > 0) {
    return fail("disk '{}' has internal snapshots, and is not resized with them", config.path);
  }
  const std::uint64_t old = chain->size();
  const std::uint64_t entries = needed_l1_entries(size, chain->top().header().cluster_bits);
  if (entries * 8 > kMaxL1Bytes) {
    return fail("disk '{}' has clusters of {} bytes, too small for a disk of {}", config.path,
                chain->top().header().cluster_size(), size);
  }
  int error = 0;
  if (entries > chain->top().header().l1_entries) {
    error = grow_l1(chain->top(), static_cast<std::uint32_t>(entries));
    chain.reset();
    if (error == 0) chain = TRY(Chain::open(config));
  }
  if (error == 0 && size > old) {
    chain->set_size(size);
    error = zero_new_part(*chain, old);
  } else if (error == 0) {
    error = drop_old_part(*chain, size);
    chain->set_size(size);
  }
  if (error == 0) error = chain->flush();
  if (error == 0) error = chain->top().write_size();
  if (error != 0)
    return fail_errno_text(error, fmt::format("cannot resize disk '{}'", config.path));
  return {};
}

}  // namespace

Result<void> resize(const ResizeOptions& options) {
  TRY(refuse_snapshot_file(options.path));
  DiskConfig config;
  config.path = options.path;
  config.format = options.format;
  auto chain = TRY(Chain::open(config));
  const std::uint64_t size = TRY(new_size(options, chain->size()));
  if (size == chain->size()) return {};
  return chain->is_raw() ? resize_raw(*chain, size) : resize_image(std::move(chain), config, size);
}

}  // namespace vmm::disk::qcow2
