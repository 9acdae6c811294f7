#include "src/disk/qcow2/compare.h"

#include <algorithm>

#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/piece.h"

namespace vmm::disk::qcow2 {
namespace {

Result<std::unique_ptr<Chain>> open(const std::string& path, ImageFormat format) {
  DiskConfig config;
  config.path = path;
  config.format = format;
  config.read_only = true;
  return Chain::open(config);
}

// As long as it is of one kind, and inside of the disk.
struct Part {
  bool zero = true;
  std::uint64_t length = 0;
};

std::expected<Part, int> part_at(Chain& disk, std::uint64_t offset, std::uint64_t length) {
  if (offset >= disk.size()) return Part{true, length};
  const auto location = disk.locate_data(offset, std::min(length, disk.size() - offset));
  if (!location) return std::unexpected(location.error());
  return Part{location->extent.kind == Extent::Kind::zero, location->extent.length};
}

class Comparison {
 public:
  Comparison(Chain& first, Chain& second, Progress& progress)
      : disks_{&first, &second},
        size_(std::max(first.size(), second.size())),
        progress_(progress) {}

  Result<std::optional<std::uint64_t>> run() {
    progress_.begin("comparing", TRY(size_of_data()));
    for (std::uint64_t offset = 0; offset < size_;) {
      const Part part = TRY(common_part(offset));
      const std::uint64_t length = part.zero ? part.length : std::min(part.length, kPiece);
      if (!part.zero) {
        if (const auto at = TRY(differ_within(offset, length))) return at;
      }
      offset += length;
      TRY(progress_.advance(part.zero ? 0 : length));
    }
    return std::nullopt;
  }

 private:
  // Of both disks: zero when both are.
  Result<Part> common_part(std::uint64_t offset) {
    Part common{.length = size_ - offset};
    for (Chain* disk : disks_) {
      const auto part = part_at(*disk, offset, common.length);
      if (!part) return failed(*disk, part.error());
      common.length = std::min(common.length, part->length);
      common.zero = common.zero && part->zero;
    }
    return common;
  }
  Result<std::uint64_t> size_of_data() {
    progress_.begin("measuring", 0);
    std::uint64_t data = 0;
    for (std::uint64_t offset = 0; offset < size_;) {
      const Part part = TRY(common_part(offset));
      if (!part.zero) data += part.length;
      offset += part.length;
      TRY(progress_.advance(0));
    }
    return data;
  }
  Result<std::optional<std::uint64_t>> differ_within(std::uint64_t offset, std::uint64_t length) {
    for (std::size_t i = 0; i < 2; ++i) {
      data_[i].assign(length, std::byte{0});
      if (offset >= disks_[i]->size()) continue;
      const std::uint64_t there = std::min(length, disks_[i]->size() - offset);
      const int error = disks_[i]->read(offset, std::span(data_[i]).first(there));
      if (error != 0) return failed(*disks_[i], error);
    }
    const auto place = std::ranges::mismatch(data_[0], data_[1]).in1;
    if (place == data_[0].end()) return std::nullopt;
    return offset + static_cast<std::uint64_t>(place - data_[0].begin());
  }
  static std::unexpected<Error> failed(Chain& disk, int error) {
    return fail_errno_text(error, fmt::format("cannot read disk '{}'", disk.name()));
  }

  Chain* disks_[2];
  std::vector<std::byte> data_[2];
  const std::uint64_t size_;
  Progress& progress_;
};

}  // namespace

Result<CompareResult> compare(const CompareOptions& options, Progress& progress) {
  const auto first = TRY(open(options.first, options.first_format));
  const auto second = TRY(open(options.second, options.second_format));
  CompareResult result;
  result.first_size = first->size();
  result.second_size = second->size();
  result.differ_at = TRY(Comparison(*first, *second, progress).run());
  return result;
}

}  // namespace vmm::disk::qcow2
