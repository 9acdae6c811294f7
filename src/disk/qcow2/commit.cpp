#include "src/disk/qcow2/commit.h"

#include <algorithm>

#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/piece.h"
#include "src/disk/qcow2/snapshot_file.h"

namespace vmm::disk::qcow2 {
namespace {

bool has_data(const Extent& extent) {
  return extent.kind == Extent::Kind::data || extent.kind == Extent::Kind::compressed;
}

std::expected<std::uint64_t, int> size_of_data(Image& image, Progress& progress) {
  progress.begin("measuring", 0);
  const std::uint64_t size = image.header().size;
  std::uint64_t data = 0;
  for (std::uint64_t offset = 0; offset < size;) {
    const auto extent = image.map(offset, size - offset);
    if (!extent) return std::unexpected(extent.error());
    if (has_data(*extent)) data += extent->length;
    offset += extent->length;
    if (!progress.advance(0)) return std::unexpected(kCancelled);
  }
  return data;
}

int copy_down(Chain& image, Chain& backing, Progress& progress) {
  const auto total = size_of_data(image.top(), progress);
  if (!total) return total.error();
  progress.begin("committing", *total);
  std::vector<std::byte> data(kPiece);
  for (std::uint64_t offset = 0; offset < image.size();) {
    const auto extent = image.top().map(offset, image.size() - offset);
    if (!extent) return extent.error();
    const bool copied = has_data(*extent);
    const std::uint64_t length = copied ? std::min(extent->length, kPiece) : extent->length;
    Request request;
    request.offset = offset;
    request.length = length;
    const iovec buffer{data.data(), length};
    int error = 0;
    if (extent->kind == Extent::Kind::zero) {
      request.operation = Operation::write_zeroes;
      request.may_unmap = true;
      error = backing.perform(request);
    } else if (copied) {
      error = image.read(offset, std::span(data).first(length));
      request.operation = Operation::write;
      request.buffers = {&buffer, 1};
      if (error == 0) error = backing.perform(request);
    }
    if (error != 0) return error;
    offset += length;
    if (!progress.advance(copied ? length : 0)) return kCancelled;
  }
  progress.begin("writing to disk", 0);
  return backing.flush();
}

int empty(Image& image, Progress& progress) {
  const Header& header = image.header();
  for (std::uint64_t first = 0; first < header.clusters(); first += header.l2_entries()) {
    const std::uint64_t count = std::min(header.l2_entries(), header.clusters() - first);
    if (const int error = image.flush_when_due(); error != 0) return error;
    if (const int error = image.unlink(first, count, Image::Leaves::nothing); error != 0) {
      return error;
    }
    if (!progress.advance(0)) return kCancelled;
  }
  return image.flush();
}

}  // namespace

Result<void> commit(const std::string& path, Progress& progress) {
  DiskConfig config;
  config.path = path;
  // The backing file is opened for writing, so not as a part of the image's chain.
  const auto image = TRY(Chain::open(config, Chain::Follow::none));
  if (image->is_raw() || image->top().header().backing_path.empty()) {
    return fail("disk '{}' has no backing file to commit to", path);
  }
  const auto named = TRY(image->backing());
  if (const auto free = refuse_snapshot_file(named.path); !free) {
    return fail("backing file of disk '{}': {}", path, free.error().message());
  }
  DiskConfig below;
  below.path = named.path;
  below.format = named.format;
  auto backing = Chain::open(below);
  if (!backing) {
    return fail("backing file of disk '{}': {}", path, backing.error().message());
  }
  if ((*backing)->size() < image->size()) {
    return fail("disk '{}' has {} bytes and its backing file '{}' only {}: extend that first", path,
                image->size(), below.path, (*backing)->size());
  }
  if ((*backing)->is_raw() && image->looks_like_image()) {
    return fail(
        "the content of '{}' begins as a qcow2 image does, and its raw backing file '{}' "
        "would be taken for one: convert it to qcow2 instead",
        path, below.path);
  }
  int error = copy_down(*image, **backing, progress);
  if (error == 0) error = empty(image->top(), progress);
  if (error != 0) return fail_errno_text(error, fmt::format("cannot commit disk '{}'", path));
  return {};
}

}  // namespace vmm::disk::qcow2
