#include "devices/backend/disk/qcow2/commit.h"

#include <algorithm>

#include "devices/backend/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kPiece = 2u << 20;

int copy_down(Chain& image, Chain& backing) {
  std::vector<std::byte> data(kPiece);
  for (std::uint64_t offset = 0; offset < image.size();) {
    const auto extent = image.top().map(offset, std::min(image.size() - offset, kPiece));
    if (!extent) return extent.error();
    const std::uint64_t length = extent->length;
    Request request;
    request.offset = offset;
    request.length = length;
    const iovec buffer{data.data(), length};
    int error = 0;
    if (extent->kind == Extent::Kind::zero) {
      request.operation = Operation::write_zeroes;
      request.may_unmap = true;
      error = backing.perform(request);
    } else if (extent->kind != Extent::Kind::unallocated) {
      error = image.read(offset, std::span(data).first(length));
      request.operation = Operation::write;
      request.buffers = {&buffer, 1};
      if (error == 0) error = backing.perform(request);
    }
    if (error != 0) return error;
    offset += length;
  }
  return backing.flush();
}

int empty(Image& image) {
  const Header& header = image.header();
  for (std::uint64_t first = 0; first < header.clusters(); first += header.l2_entries()) {
    const std::uint64_t count = std::min(header.l2_entries(), header.clusters() - first);
    if (const int error = image.flush_when_due(); error != 0) return error;
    if (const int error = image.unlink(first, count, Image::Leaves::nothing); error != 0) {
      return error;
    }
  }
  return image.flush();
}

}  // namespace

Result<void> commit(const std::string& path) {
  DiskConfig config;
  config.path = path;
  // The backing file is opened for writing, so not as a part of the image's chain.
  const auto image = TRY(Chain::open(config, Chain::Follow::none));
  if (image->is_raw() || image->top().header().backing_path.empty()) {
    return fail("disk '{}' has no backing file to commit to", path);
  }
  const auto named = TRY(image->backing());
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
  int error = copy_down(*image, **backing);
  if (error == 0) error = empty(image->top());
  if (error != 0) return fail_errno_text(error, fmt::format("cannot commit disk '{}'", path));
  return {};
}

}  // namespace vmm::disk::qcow2
