#include "src/disk/qcow2/resize.h"

#include <unistd.h>

#include <algorithm>

#include "src/disk/qcow2/snapshot_file.h"

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

}  // namespace

Result<void> resize_image(Chain& chain, std::uint64_t size) {
  const Header& header = chain.top().header();
  if (header.snapshots > 0) {
    return fail("disk '{}' has internal snapshots, and is not resized with them", chain.name());
  }
  const std::uint64_t old = chain.size();
  const std::uint64_t entries = needed_l1_entries(size, header.cluster_bits);
  if (entries * 8 > kMaxL1Bytes) {
    return fail("disk '{}' has clusters of {} bytes, too small for a disk of {}", chain.name(),
                header.cluster_size(), size);
  }
  int error = 0;
  if (entries > header.l1_entries) {
    error = chain.top().grow_l1(static_cast<std::uint32_t>(entries));
  }
  if (error == 0 && size > old) {
    chain.set_size(size);
    error = zero_new_part(chain, old);
  } else if (error == 0) {
    error = drop_old_part(chain, size);
    chain.set_size(size);
  }
  if (error == 0) error = chain.flush();
  if (error == 0) error = chain.top().write_size();
  if (error == 0) return {};
  if (size > old) chain.set_size(old);
  return fail_errno_text(error, fmt::format("cannot resize disk '{}'", chain.name()));
}

Result<void> resize(const ResizeOptions& options) {
  TRY(refuse_snapshot_file(options.path));
  DiskConfig config;
  config.path = options.path;
  config.format = options.format;
  auto chain = TRY(Chain::open(config));
  const std::uint64_t size = TRY(new_size(options, chain->size()));
  if (size == chain->size()) return {};
  return chain->is_raw() ? resize_raw(*chain, size) : resize_image(*chain, size);
}

}  // namespace vmm::disk::qcow2
