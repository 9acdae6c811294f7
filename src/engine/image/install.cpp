#include "src/engine/image/install.h"

#include <sys/statvfs.h>

#include "src/engine/image/layer_image.h"
#include "src/engine/image/merged_image.h"

namespace vmm::engine {
namespace {

// What a layer may unpack to: what fits beside a reserve for everybody else.
Result<std::uint64_t> free_bytes(int fd) {
  struct statvfs status{};
  if (::fstatvfs(fd, &status) < 0) return fail_errno("cannot examine the store's file system");
  const auto free = std::uint64_t{status.f_bavail} * status.f_frsize;
  constexpr std::uint64_t kReserve = 64u << 20;
  if (free <= kReserve) return fail("the store's file system is full");
  return free - kReserve;
}

// Tells what is read of a layer's blob.
class WatchedSource final : public ByteSource {
 public:
  WatchedSource(int fd, Progress& progress) : file_(fd), progress_(progress) {}
  Result<std::size_t> read(std::span<std::byte> buffer) override {
    const auto size = TRY(file_.read(buffer));
    TRY(progress_.advance(size));
    return size;
  }

 private:
  FileSource file_;
  Progress& progress_;
};

Result<std::uint64_t> install_layer(Catalog& catalog, const ContentStore& content,
                                    const Descriptor& blob, const Digest& diff_id,
                                    const LayerEvents& events) {
  if (const auto size = TRY(catalog.layer_size(diff_id))) return *size;
  const auto compressed = TRY(content.open_content(Content::blob, blob.digest));
  auto file = TRY(content.temporary());
  LayerLimits limits;
  limits.archive_bytes = TRY(free_bytes(file.fd()));
  LayerProgress progress(events, blob.digest);
  progress.begin("Extracting", blob.size);
  WatchedSource source(compressed.get(), progress);
  const auto layer = write_layer_image(source, file.fd(), limits);
  if (!layer) return fail("layer {}: {}", blob.digest.text(), layer.error().message());
  if (layer->diff_id != diff_id) {
    return fail("layer {}: digest mismatch: it unpacks to {}, expected {}", blob.digest.text(),
                layer->diff_id.text(), diff_id.text());
  }
  TRY(content.publish(std::move(file), Content::layer, diff_id));
  events.tell(blob.digest, "Pull complete");
  return layer->size;
}

Result<void> install_merged(const ContentStore& content, const Image& image) {
  if (content.has(Content::merged, image.id)) return {};
  std::vector<UniqueFd> files;
  std::vector<int> descriptors;
  for (const auto& layer : image.layers) {
    files.push_back(TRY(content.open_content(Content::layer, layer.diff_id)));
    descriptors.push_back(files.back().get());
  }
  auto merged = TRY(content.temporary());
  TRY(write_merged_image(descriptors, merged.fd()));
  return content.publish(std::move(merged), Content::merged, image.id);
}

}  // namespace

Result<Image> install_image(Store& store, const Digest& manifest_digest,
                            const std::vector<Reference>& names, const LayerEvents& events) {
  const auto& content = store.content();
  Catalog catalog(store);
  const auto manifest = TRY(parse_manifest(TRY(content.read_blob(manifest_digest, kMaxDocument))));
  const auto config =
      TRY(parse_image_config(TRY(content.read_blob(manifest.config.digest, kMaxDocument))));
  if (config.diff_ids.size() != manifest.layers.size()) {
    return fail("the image has {} layers, but its configuration has {}", manifest.layers.size(),
                config.diff_ids.size());
  }
  Image image{manifest.config.digest,
              manifest_digest,
              config.created,
              config.platform.os,
              config.platform.architecture,
              {}};
  for (std::size_t i = 0; i < manifest.layers.size(); ++i) {
    const auto& blob = manifest.layers[i];
    const auto size = TRY(install_layer(catalog, content, blob, config.diff_ids[i], events));
    image.layers.push_back({config.diff_ids[i], blob.digest, size});
  }
  TRY(install_merged(content, image));
  TRY(content.sync_names());
  TRY(catalog.add(image, names));
  return image;
}

Result<std::string> layer_media_type(const ContentStore& content, const Digest& blob) {
  constexpr std::string_view kGzip = "\x1f\x8b";
  constexpr std::string_view kZstd = "\x28\xb5\x2f\xfd";
  const auto fd = TRY(content.open_content(Content::blob, blob));
  std::array<char, 4> start{};
  FileSource source(fd.get());
  const auto size = TRY(source.read(std::as_writable_bytes(std::span(start))));
  const std::string_view text(start.data(), size);
  const std::string tar = "application/vnd.oci.image.layer.v1.tar";
  if (text.starts_with(kGzip)) return tar + "+gzip";
  if (text.starts_with(kZstd)) return tar + "+zstd";
  return tar;
}

}  // namespace vmm::engine
