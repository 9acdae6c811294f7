#include "src/disk/qcow2/convert.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "src/base/new_file.h"
#include "src/base/zero.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/compression.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/data_size.h"
#include "src/disk/qcow2/piece.h"

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kLeast = 64u << 10;

class Target {
 public:
  virtual ~Target() = default;
  // What is written or left out as one.
  virtual std::uint64_t unit() const = 0;
  // The most that one write takes.
  virtual std::uint64_t most() const { return kPiece; }
  virtual int write(std::uint64_t offset, std::span<const std::byte> data) = 0;
  // Takes `length` bytes at `host` of `file` without copying them, if it can; whether it did.
  virtual bool share(int /*file*/, std::uint64_t /*host*/, std::uint64_t /*offset*/,
                     std::uint64_t /*length*/) {
    return false;
  }
  virtual int finish() = 0;
};

class RawTarget : public Target {
 public:
  explicit RawTarget(int fd) : fd_(fd) {}
  std::uint64_t unit() const override { return kHole; }
  int write(std::uint64_t offset, std::span<const std::byte> data) override {
    const auto written = write_all_at(fd_, data, offset);
    return written ? 0 : written.error().code();
  }
  // Blocks of one file system belong to both files then, until one of these is written; also those
  // that hold nothing but zeroes.
  bool share(int file, std::uint64_t host, std::uint64_t offset, std::uint64_t length) override {
    if (apart_.contains(file)) return false;
    const file_clone_range range{file, host, length, offset};
    if (::ioctl(fd_, FICLONERANGE, &range) == 0) return true;
    apart_.insert(file);
    return false;
  }
  int finish() override { return 0; }

 private:
  std::set<int> apart_;  // of another file system, or of one that cannot
  int fd_;               // check: raw-descriptors allowed, NewFile owns it
};

class ImageTarget : public Target {
 public:
  ImageTarget(std::unique_ptr<Chain> chain, std::optional<Compression> compression)
      : chain_(std::move(chain)), compression_(compression) {}
  ImageTarget(const ImageTarget&) = delete;
  ImageTarget& operator=(const ImageTarget&) = delete;
  ~ImageTarget() override {
    if (!finished_) chain_->top().abandon();
  }
  std::uint64_t unit() const override { return chain_->top().header().cluster_size(); }
  std::uint64_t most() const override { return compression_ ? unit() : kPiece; }

  int write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (!compression_) return chain_->write(offset, data);
    if (const int error = chain_->top().flush_when_due(); error != 0) return error;
    // A cluster at the disk's end is packed as a whole one.
    std::vector<std::byte> cluster(data.begin(), data.end());
    cluster.resize(unit());
    const auto packed = compress(*compression_, cluster);
    return packed.empty() ? chain_->write(offset, data) : append(offset / unit(), packed);
  }
  int finish() override {
    const int error = chain_->flush();
    finished_ = error == 0;
    return error;
  }

 private:
  // Packed clusters lie behind one another, across the file's clusters where these touch.
  int append(std::uint64_t cluster, std::span<const std::byte> packed) {
    Image& image = chain_->top();
    if (packed.size() > end_ - at_) {
      const auto run = image.allocate(1);
      if (!run) return run.error();
      const std::uint64_t host = run->first * unit();
      if (host != end_) at_ = host;
      end_ = host + unit();
    }
    if (const int error = image.storage().write(at_, packed); error != 0) return error;
    if (const int error = image.link_compressed(cluster, at_, packed.size()); error != 0) {
      return error;
    }
    at_ += packed.size();
    return 0;
  }

  std::unique_ptr<Chain> chain_;
  std::optional<Compression> compression_;
  bool finished_ = false;
  std::uint64_t at_ = 0;  // where the next packed cluster goes
  std::uint64_t end_ = 0;
};

// What is not zero of `piece`, which begins at a unit; neighbours together.
int write_units(Target& target, std::uint64_t offset, std::span<const std::byte> piece) {
  const std::uint64_t unit = target.unit();
  const auto size = [&](std::uint64_t at) { return std::min(unit, piece.size() - at); };
  for (std::uint64_t begin = 0; begin < piece.size();) {
    std::uint64_t end = begin;
    while (end < piece.size() && !is_zero(piece.subspan(end, size(end)))) end += size(end);
    const std::uint64_t step = target.most();
    for (std::uint64_t at = begin; at < end; at += step) {
      const auto part = piece.subspan(at, std::min(step, end - at));
      if (const int error = target.write(offset + at, part); error != 0) return error;
    }
    begin = end < piece.size() ? end + size(end) : end;
  }
  return 0;
}

int copy(Chain& source, Target& target, Progress& progress) {
  const auto total = data_size(source, progress);
  if (!total) return total.error();
  progress.begin("converting", *total);
  const std::uint64_t unit = target.unit();
  std::vector<std::byte> data(std::max(kPiece, unit));
  for (std::uint64_t offset = 0; offset < source.size();) {
    const std::uint64_t left = source.size() - offset;
    const auto location = source.locate_data(offset, left);
    if (!location) return location.error();
    std::uint64_t end = offset + location->extent.length;
    if (location->extent.kind == Extent::Kind::zero) {
      // Up to where a unit of the target begins.
      const std::uint64_t next = end >= source.size() ? end : round_down(end, unit);
      if (next > offset) {
        offset = next;
        continue;
      }
    }
    if (location->extent.kind == Extent::Kind::data) {
      const std::uint64_t whole = round_down(location->extent.length, kHole);
      const std::uint64_t host = location->extent.host;
      if (whole != 0 && host % kHole == 0 && offset % kHole == 0 &&
          target.share(source.file(location->layer).fd(), host, offset, whole)) {
        offset += whole;
        if (!progress.advance(whole)) return kCancelled;
        continue;
      }
    }
    // Whole units, and not too few bytes at once where little lies together.
    end = round_up(std::max(end, offset + kLeast), unit);
    const std::uint64_t length = std::min<std::uint64_t>({data.size(), left, end - offset});
    const auto piece = std::span(data).first(length);
    int error = source.read(offset, piece);
    if (error == 0) error = write_units(target, offset, piece);
    if (error != 0) return error;
    offset += length;
    if (!progress.advance(length)) return kCancelled;
  }
  return 0;
}

}  // namespace

Result<void> convert(const ConvertOptions& options, Progress& progress) {
  DiskConfig from;
  from.path = options.source;
  from.format = options.source_format;
  from.read_only = true;
  const auto source = TRY(Chain::open(from));
  // A guest may have written such a header, and have it name any file of the host.
  if (options.format == ImageFormat::raw && source->looks_like_image()) {
    return fail(
        "the content of '{}' begins as a qcow2 image does, and as a raw file would be taken "
        "for one: convert it to qcow2",
        options.source);
  }
  auto file = TRY(NewFile::create(options.target, 0666));
  std::unique_ptr<Target> target;
  if (options.format == ImageFormat::raw) {
    if (::ftruncate(file.fd(), static_cast<off_t>(source->size())) < 0) {
      return fail_errno("cannot extend '{}'", options.target);
    }
    // Its file system may let the two share their blocks: nothing is copied then.
    if (source->is_raw() && ::ioctl(file.fd(), FICLONE, source->file(0).fd()) == 0) {
      return file.publish();
    }
    target = std::make_unique<RawTarget>(file.fd());
  } else {
    CreateOptions create;
    create.size = round_up(source->size(), kSectorSize);
    create.cluster_size = options.cluster_size;
    create.compression = options.compression.value_or(Compression::zlib);
    TRY(write_empty_image(file.fd(), create));
    DiskConfig into;
    into.path = file.partial();
    into.format = ImageFormat::qcow2;
    target = std::make_unique<ImageTarget>(TRY(Chain::open(into)), options.compression);
  }
  int error = copy(*source, *target, progress);
  progress.begin("writing to disk", 0);
  if (error == 0) error = target->finish();
  target.reset();
  if (error != 0) {
    return fail_errno_text(
        error, fmt::format("cannot convert '{}' to '{}'", options.source, options.target));
  }
  return file.publish();
}

}  // namespace vmm::disk::qcow2
