#include "src/disk/qcow2/chain.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

#include "src/disk/buffers.h"
#include "src/disk/qcow2/compression.h"

namespace vmm::disk::qcow2 {
namespace {

using FileId = std::pair<dev_t, ino_t>;

// The path of a backing file that `image` names.
Result<std::string> resolve(const std::string& image, std::string backing) {
  constexpr std::string_view kFile = "file:";
  if (backing.starts_with(kFile) && !backing.starts_with("file://")) {
    backing.erase(0, kFile.size());
  }
  if (backing.starts_with("json:") || backing.find("://") != std::string::npos) {
    return fail("disk '{}': its backing file '{}' is not named by a path, which is not supported",
                image, backing);
  }
  const auto slash = image.rfind('/');
  if (backing.starts_with('/') || slash == std::string::npos) return backing;
  const auto joined = image.substr(0, slash + 1) + backing;
  // Each image of a long chain adds its "../x" to the name of the next, up to more than the kernel
  // takes.
  constexpr std::size_t kLong = 1024;
  if (joined.size() < kLong) return joined;
  const auto end = joined.rfind('/');
  std::error_code error;
  const auto directory = std::filesystem::canonical(joined.substr(0, end), error);
  return error ? joined : directory.string() + joined.substr(end);
}

}  // namespace

Result<std::unique_ptr<Chain>> Chain::open(const DiskConfig& config, Follow follow) {
  std::unique_ptr<Chain> chain(new Chain);
  TRY(chain->add_layers(config, follow));
  chain->size_ = chain->layers_[0].size;
  return chain;
}

Result<Chain::Layer> Chain::open_layer(const DiskConfig& config, ImageFormat format) {
  Layer layer;
  auto file = TRY(RawFile::open(config, RawFile::Content::format));
  if (format == ImageFormat::raw) {
    layer.size = file->info().size;
    layer.raw = std::make_unique<Storage>(std::move(file));
    return layer;
  }
  layer.image = TRY(
      Image::open(std::move(file), config.read_only ? Image::Access::read : Image::Access::write));
  layer.size = layer.image->header().size;
  return layer;
}

Result<void> Chain::add_layers(const DiskConfig& config, Follow follow) {
  DiskConfig next = config;
  ImageFormat format = config.format;
  if (format == ImageFormat::automatic) format = TRY(probe_format(config.path));
  std::set<FileId> seen;
  for (;;) {
    struct stat status{};
    if (::stat(next.path.c_str(), &status) == 0 &&
        !seen.insert({status.st_dev, status.st_ino}).second) {
      return fail("disk '{}': its backing files form a loop: '{}' comes twice", config.path,
                  next.path);
    }
    auto layer = open_layer(next, format);
    if (!layer && layers_.empty()) return std::unexpected(layer.error());
    if (!layer) {
      return fail("backing file of disk '{}': {}", config.path, layer.error().message());
    }
    layers_.push_back(std::move(*layer));
    const Image* image = layers_.back().image.get();
    if (image == nullptr || image->header().backing_path.empty()) return {};
    if (follow == Follow::none) return {};
    if (layers_.size() >= kMaxChain) {
      return fail("disk '{}' has more than {} backing files behind one another", config.path,
                  kMaxChain - 1);
    }
    const Named named = TRY(backing());
    next = DiskConfig{};
    next.read_only = true;
    next.path = named.path;
    format = named.format;
  }
}

Result<Chain::Named> Chain::backing() const {
  const Image& image = *layers_.back().image;
  return backing_of(image.name(), image.header());
}

Result<Chain::Named> Chain::backing_of(const std::string& name, const Header& header) {
  Named named{TRY(resolve(name, header.backing_path)), {}};
  const auto& format = header.backing_format;
  // Its first bytes may be a guest's, and name any file of the host.
  if (format.empty()) {
    return fail(
        "disk '{}' does not say the format of its backing file '{}': name it (raw or qcow2) with "
        "`qemu-img rebase -u -F FORMAT -b {} {}`",
        name, named.path, header.backing_path, name);
  }
  const auto parsed = parse_format(format);
  if (!parsed) {
    return fail("disk '{}': the format of its backing file '{}': {}", name, named.path,
                parsed.error().message());
  }
  named.format = *parsed;
  return named;
}

RawFile& Chain::file(std::size_t layer) {
  Layer& chosen = layers_[layer];
  return chosen.image ? chosen.image->storage().file() : chosen.raw->file();
}

std::vector<Chain::Named> Chain::describe() const {
  std::vector<Named> layers;
  for (const auto& layer : layers_) {
    if (layer.image) {
      layers.push_back({layer.image->name(), ImageFormat::qcow2});
    } else {
      layers.push_back({layer.raw->file().name(), ImageFormat::raw});
    }
  }
  return layers;
}

void Chain::set_size(std::uint64_t size) {
  top().set_size(size);
  layers_[0].size = size_ = size;
}

std::expected<Location, int> Chain::locate(std::uint64_t offset, std::uint64_t length) {
  return locate_from(0, offset, length);
}

std::expected<Location, int> Chain::locate_from(std::size_t layer, std::uint64_t offset,
                                                std::uint64_t length) {
  for (; layer < layers_.size(); ++layer) {
    const Layer& here = layers_[layer];
    if (offset >= here.size) break;  // zeroes behind a shorter backing file's end
    length = std::min(length, here.size - offset);
    if (!here.image) {
      Location location{{}, layer};
      location.extent.kind = Extent::Kind::data;
      location.extent.host = offset;
      location.extent.length = length;
      return location;
    }
    const auto extent = here.image->map(offset, length);
    if (!extent) return std::unexpected(extent.error());
    if (extent->kind != Extent::Kind::unallocated) return Location{*extent, layer};
    length = extent->length;
  }
  Location location{{}, layer};
  location.extent.kind = Extent::Kind::zero;
  location.extent.length = length;
  return location;
}

std::expected<Location, int> Chain::locate_data(std::uint64_t offset, std::uint64_t length) {
  Location found;
  std::uint64_t done = 0;
  while (done < length) {
    auto location = locate(offset + done, length - done);
    if (!location) return location;
    Extent& extent = location->extent;
    if (extent.kind == Extent::Kind::data && is_hole(location->layer, extent)) {
      extent.kind = Extent::Kind::zero;
    }
    if (done == 0) found = *location;
    if (done > 0 && extent.kind != Extent::Kind::zero) break;
    done += extent.length;
    if (extent.kind != Extent::Kind::zero) break;
  }
  found.extent.length = done;
  return found;
}

// Shortens the extent to what is all a hole of the file, or all not.
bool Chain::is_hole(std::size_t layer, Extent& extent) {
  const auto data = vmm::next_data(file(layer).fd(), extent.host, extent.host + extent.length);
  if (!data) return false;  // the file cannot tell
  const bool hole = data->offset > extent.host;
  extent.length = hole ? data->offset - extent.host : data->length;
  return hole;
}

int Chain::perform(const Request& request) {
  if (is_raw() && request.operation != Operation::read) return file(0).perform(request);
  switch (request.operation) {
    case Operation::read:
      return read_into(request.offset, request.length, request.buffers);
    case Operation::write:
      return write(request);
    case Operation::flush:
      return flush();
    case Operation::discard:
      return discard(request.offset, request.length);
    case Operation::write_zeroes:
      return write_zeroes(request);
  }
  return ENOTSUP;
}

int Chain::read(std::uint64_t offset, std::span<std::byte> target) {
  const iovec buffer{target.data(), target.size()};
  return read_into(offset, target.size(), {&buffer, 1});
}

int Chain::write(std::uint64_t offset, std::span<const std::byte> source) {
  const iovec buffer{const_cast<std::byte*>(source.data()), source.size()};
  Request request;
  request.operation = Operation::write;
  request.offset = offset;
  request.length = source.size();
  request.buffers = {&buffer, 1};
  return perform(request);
}

bool Chain::looks_like_image() {
  std::array<std::byte, 4> start{};
  return size_ >= start.size() && read(0, start) == 0 && has_magic(start);
}

int Chain::read_into(std::uint64_t offset, std::uint64_t length, std::span<const iovec> buffers) {
  if (length == 0) return 0;
  if (offset > size_ || length > size_ - offset) return EINVAL;
  const auto token = is_raw() ? Grace::Token{0} : top().enter();
  std::vector<iovec> left(buffers.begin(), buffers.end());
  int error = 0;
  while (length > 0 && error == 0) {
    const auto location = locate(offset, length);
    if (!location) {
      error = location.error();
      break;
    }
    const Extent& extent = location->extent;
    const auto piece = take_bytes(left, extent.length);
    if (extent.kind == Extent::Kind::data) {
      Request request;
      request.offset = extent.host;
      request.length = extent.length;
      request.buffers = piece;
      error = file(location->layer).perform(request);
    } else if (extent.kind == Extent::Kind::compressed) {
      const Image& packer = *layers_[location->layer].image;
      std::vector<std::byte> data(extent.length);
      error = read_packed(*location, offset & (packer.header().cluster_size() - 1), data);
      copy_bytes(piece, {data.data(), data.size()}, Direction::to_buffers);
    } else {
      for (const auto& buffer : piece) std::memset(buffer.iov_base, 0, buffer.iov_len);
    }
    left = skip_bytes(left, extent.length);
    offset += extent.length;
    length -= extent.length;
  }
  if (!is_raw()) top().leave(token);
  return error;
}

int Chain::read_packed(const Location& location, std::uint64_t within,
                       std::span<std::byte> target) {
  Image& image = *layers_[location.layer].image;
  const Extent& extent = location.extent;
  const std::uint64_t cluster_size = image.header().cluster_size();
  {
    std::lock_guard lock(unpacked_.mutex);
    if (unpacked_.host == extent.host && unpacked_.layer == location.layer) {
      std::memcpy(target.data(), &unpacked_.cluster[within], target.size());
      return 0;
    }
  }
  std::vector<std::byte> packed(extent.packed_size), cluster(cluster_size);
  if (const int error = image.storage().read(extent.host, packed); error != 0) return error;
  if (const int error = decompress(image.header().compression, packed, cluster); error != 0) {
    return error;
  }
  std::memcpy(target.data(), &cluster[within], target.size());
  std::lock_guard lock(unpacked_.mutex);
  unpacked_.layer = location.layer;
  unpacked_.host = extent.host;
  unpacked_.cluster = std::move(cluster);
  return 0;
}

}  // namespace vmm::disk::qcow2
