// Chain: an image and the files behind it, as one disk, with blocking operations. The first layer
// is the image itself, which may be written; the others are read only, and the last one may be raw.
//
//   auto chain = TRY(Chain::open({.path = "overlay.qcow2"}));
//   const int error = chain->perform(request);      // 0 or an errno
//
// Locks as RawFile has them: the image exclusively when it is written, what is behind it shared, so
// that a file with a running machine on top of it cannot be opened for writing, and the reverse.
//
// Any thread. Who changes the mapping of clusters holds their range in `locks_` first.
#pragma once

#include <atomic>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/disk/disk.h"
#include "src/disk/qcow2/image.h"
#include "src/disk/qcow2/probe.h"
#include "src/disk/qcow2/range_locks.h"

namespace vmm::disk::qcow2 {

// Where a piece of the disk lies.
struct Location {
  Extent extent;
  std::size_t layer = 0;
};

class Chain {
 public:
  // `config.format` automatic: by the file's first bytes. A raw file makes a chain of itself alone.
  enum class Follow : std::uint8_t { all, none };
  static Result<std::unique_ptr<Chain>> open(const DiskConfig& config, Follow follow = Follow::all);

  std::uint64_t size() const { return size_; }
  const std::string& name() { return file(0).name(); }
  bool is_raw() const { return is_raw_layer(0); }
  bool is_raw_layer(std::size_t layer) const { return layers_[layer].image == nullptr; }
  // Not of a raw file.
  Image& top() { return *layers_[0].image; }
  const Image& top() const { return *layers_[0].image; }
  std::size_t layers() const { return layers_.size(); }
  RawFile& file(std::size_t layer);
  std::uint64_t layer_size(std::size_t layer) const { return layers_[layer].size; }
  bool has_backing() const { return layers_.size() > 1; }
  // A file and what its bytes are.
  struct Named {
    std::string path;
    ImageFormat format = ImageFormat::raw;
  };
  // The layers that are open, the image first.
  std::vector<Named> describe() const;
  // What the last layer that is open names as its backing file; that one is an image.
  Result<Named> backing() const;
  // The same of a header that the image `name` has; it names one.
  static Result<Named> backing_of(const std::string& name, const Header& header);

  // Within the disk; as long as what lies together, at most `length`.
  std::expected<Location, int> locate(std::uint64_t offset, std::uint64_t length);
  // The same for tools: holes of raw files are zeroes, and the extent is as long as it can be, over
  // tables that are not there.
  std::expected<Location, int> locate_data(std::uint64_t offset, std::uint64_t length);
  // What the layers from `layer` on have.
  std::expected<Location, int> locate_from(std::size_t layer, std::uint64_t offset,
                                           std::uint64_t length);

  // Carries a request out on the calling thread; 0 or the errno.
  int perform(const Request& request);
  int read(std::uint64_t offset, std::span<std::byte> target);
  int write(std::uint64_t offset, std::span<const std::byte> source);
  // Bytes so far that writes of parts of clusters copied beside their own.
  std::uint64_t copied_bytes() const { return copied_.load(std::memory_order_relaxed); }
  // Whether its content would be taken for a qcow2 image, were it a raw file.
  bool looks_like_image();
  // The disk has another size from now on, for this object alone: Image::write_size() tells the
  // file. The L1 table has to be large enough.
  void set_size(std::uint64_t size);
  // See Disk::settle().
  int settle() { return is_raw() ? layers_[0].raw->sync() : top().settle(); }
  int flush() { return is_raw() ? layers_[0].raw->sync() : top().flush(); }

 private:
  struct Layer {
    std::unique_ptr<Image> image;  // one of both
    std::unique_ptr<Storage> raw;
    std::uint64_t size = 0;
  };
  struct Unpacked {
    std::mutex mutex;
    std::size_t layer = 0;
    std::optional<std::uint64_t> host;  // none at first
    std::vector<std::byte> cluster;
  };

  Chain() = default;
  Result<void> add_layers(const DiskConfig& config, Follow follow);
  Result<Layer> open_layer(const DiskConfig& config, ImageFormat format);

  int read_into(std::uint64_t offset, std::uint64_t length, std::span<const iovec> buffers);
  bool is_hole(std::size_t layer, Extent& extent);
  int read_packed(const Location& location, std::uint64_t within, std::span<std::byte> target);
  int write(const Request& request);
  int write_piece(std::uint64_t offset, std::uint64_t length, std::span<const iovec> buffers);
  std::expected<std::uint64_t, int> write_new(std::uint64_t offset, std::uint64_t length,
                                              std::span<const iovec> buffers);
  std::expected<std::uint64_t, int> writable_from(std::uint64_t offset, std::uint64_t length);
  int fill_around(std::uint64_t offset, bool fresh, std::vector<std::byte>& data);
  bool reads_zero(std::uint64_t offset, std::uint64_t length);
  int discard(std::uint64_t offset, std::uint64_t length);
  int write_zeroes(const Request& request);
  int zero_piece(std::uint64_t offset, std::uint64_t length, bool may_unmap);
  int zero_clusters(std::uint64_t first, std::uint64_t count, bool may_unmap);
  int write_flat_zeroes(std::uint64_t offset, std::uint64_t length);

  std::vector<Layer> layers_;
  std::uint64_t size_ = 0;
  RangeLocks locks_;
  std::atomic<std::uint64_t> copied_{0};
  Unpacked unpacked_;  // the compressed cluster that was read last
};

}  // namespace vmm::disk::qcow2
