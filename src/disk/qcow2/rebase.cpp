#include "src/disk/qcow2/rebase.h"

#include <algorithm>
#include <filesystem>

#include "src/base/zero.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/piece.h"
#include "src/disk/qcow2/snapshot_file.h"

namespace vmm::disk::qcow2 {
namespace {

// Up to `length` bytes, zeroes behind the end.
int read_padded(Chain& chain, std::uint64_t offset, std::span<std::byte> target) {
  const std::uint64_t there =
      std::min<std::uint64_t>(target.size(), chain.size() - std::min(offset, chain.size()));
  std::ranges::fill(target.subspan(there), std::byte{0});
  return there == 0 ? 0 : chain.read(offset, target.first(there));
}

// How many bytes from `offset` on are zeroes in both, without reading them.
std::expected<std::uint64_t, int> zeroes_of_both(Chain& image, Chain* backing, std::uint64_t offset,
                                                 std::uint64_t length) {
  const auto before = image.locate_data(offset, length);
  if (!before) return std::unexpected(before.error());
  if (before->extent.kind != Extent::Kind::zero) return 0;
  length = before->extent.length;
  if (backing == nullptr || offset >= backing->size()) return length;
  const auto after = backing->locate_data(offset, std::min(length, backing->size() - offset));
  if (!after) return std::unexpected(after.error());
  if (after->extent.kind != Extent::Kind::zero) return 0;
  return offset + after->extent.length >= backing->size() ? length : after->extent.length;
}

// One cluster that the image leaves to its backing file, and that the new one has otherwise.
int take_over(Chain& image, std::uint64_t offset, std::span<const std::byte> data) {
  Image& top = image.top();
  if (const int error = top.flush_when_due(); error != 0) return error;
  if (!is_zero(data) || top.header().version < 3) return image.write(offset, data);
  return top.unlink(offset >> top.header().cluster_bits, 1, Image::Leaves::zeroes);
}

struct Part {
  std::uint64_t length = 0;
  bool differs = false;  // perhaps: both are to be read
};

std::expected<Part, int> part_at(Chain& image, Chain* backing, std::uint64_t offset) {
  const auto extent = image.top().map(offset, image.size() - offset);
  if (!extent) return std::unexpected(extent.error());
  if (extent->kind != Extent::Kind::unallocated) return Part{extent->length, false};
  const auto zeroes = zeroes_of_both(image, backing, offset, extent->length);
  if (!zeroes) return std::unexpected(zeroes.error());
  const std::uint64_t whole = round_down(*zeroes, image.top().header().cluster_size());
  return whole > 0 ? Part{whole, false} : Part{extent->length, true};
}

std::expected<std::uint64_t, int> size_to_compare(Chain& image, Chain* backing,
                                                  Progress& progress) {
  progress.begin("measuring", 0);
  std::uint64_t size = 0;
  for (std::uint64_t offset = 0; offset < image.size();) {
    const auto part = part_at(image, backing, offset);
    if (!part) return std::unexpected(part.error());
    if (part->differs) size += part->length;
    offset += part->length;
    if (!progress.advance(0)) return std::unexpected(kCancelled);
  }
  return size;
}

int take_over_differences(Chain& image, Chain* backing, Progress& progress) {
  const auto total = size_to_compare(image, backing, progress);
  if (!total) return total.error();
  progress.begin("rebasing", *total);
  const std::uint64_t unit = image.top().header().cluster_size();
  std::vector<std::byte> before(std::max(kPiece, unit)), after(before.size());
  for (std::uint64_t offset = 0; offset < image.size();) {
    const auto part = part_at(image, backing, offset);
    if (!part) return part.error();
    if (!part->differs) {
      offset += part->length;
      continue;
    }
    const std::uint64_t length = std::min<std::uint64_t>(before.size(), part->length);
    const auto old = std::span(before).first(length), now = std::span(after).first(length);
    int error = read_padded(image, offset, old);
    if (backing == nullptr) std::ranges::fill(now, std::byte{0});
    if (error == 0 && backing != nullptr) error = read_padded(*backing, offset, now);
    for (std::uint64_t at = 0; at < length && error == 0; at += unit) {
      const auto cluster = old.subspan(at, std::min(unit, length - at));
      if (!std::ranges::equal(cluster, now.subspan(at, cluster.size()))) {
        error = take_over(image, offset + at, cluster);
      }
    }
    if (error != 0) return error;
    offset += length;
    if (!progress.advance(length)) return kCancelled;
  }
  progress.begin("writing to disk", 0);
  return image.flush();
}

Result<void> write_name(Chain& image, const Chain::Named& named) {
  Storage& storage = image.top().storage();
  std::vector<std::byte> cluster(image.top().header().cluster_size());
  if (const int error = storage.read(0, cluster); error != 0) {
    return fail_errno_text(error, fmt::format("cannot read disk '{}'", image.name()));
  }
  TRY(parse_header(cluster, storage.size(), image.name()));  // what was just read, again
  const auto header = TRY(with_backing_file(cluster, named.path, format_name(named.format)));
  TRY(parse_header(header, storage.size(), image.name()));
  // The part that changed, in one write.
  std::size_t end = cluster.size();
  while (end > 0 && cluster[end - 1] == header[end - 1]) --end;
  int error = storage.write(0, std::span(header).first(end));
  if (error == 0) error = storage.sync();
  if (error != 0) {
    return fail_errno_text(error, fmt::format("cannot write to disk '{}'", image.name()));
  }
  return {};
}

}  // namespace

Result<void> rebase(const RebaseOptions& options, Progress& progress) {
  TRY(refuse_snapshot_file(options.path));
  const bool unsafe = !options.keeps_content;
  DiskConfig config;
  config.path = options.path;
  const auto image = TRY(Chain::open(config, unsafe ? Chain::Follow::none : Chain::Follow::all));
  if (image->is_raw()) return fail("disk '{}' is raw, and has no backing file", options.path);
  if (image->top().header().snapshots > 0) {
    return fail("disk '{}' has internal snapshots, and is not rebased with them", options.path);
  }
  Chain::Named named{options.backing_path, options.backing_format};
  if (named.path.empty()) {
    if (!unsafe) {
      if (const int error = take_over_differences(*image, nullptr, progress); error != 0) {
        return fail_errno_text(error, fmt::format("cannot rebase disk '{}'", options.path));
      }
    }
    return write_name(*image, named);
  }
  Header header;
  header.backing_path = named.path;
  header.backing_format = "raw";  // for its path alone
  DiskConfig below;
  below.read_only = true;
  below.path = TRY(Chain::backing_of(options.path, header)).path;
  std::error_code ignored;  // a file that is not there is another one
  if (std::filesystem::equivalent(options.path, below.path, ignored)) {
    return fail("disk '{}' cannot be its own backing file", options.path);
  }
  if (unsafe && named.format == ImageFormat::automatic) {
    return fail("the format of a backing file is needed where the file is not looked at");
  }
  if (!unsafe) {
    if (named.format == ImageFormat::automatic) named.format = TRY(probe_format(below.path));
    below.format = named.format;
    const auto backing = Chain::open(below);
    if (!backing) return fail("backing file: {}", backing.error().message());
    if ((*backing)->layers() >= kMaxChain) {
      return fail("backing file '{}' has {} files behind it; a disk has at most {}", below.path,
                  (*backing)->layers() - 1, kMaxChain - 1);
    }
    if (const int error = take_over_differences(*image, backing->get(), progress); error != 0) {
      return fail_errno_text(error, fmt::format("cannot rebase disk '{}'", options.path));
    }
  }
  return write_name(*image, named);
}

}  // namespace vmm::disk::qcow2
