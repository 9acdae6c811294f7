#include "src/engine/image/load.h"

#include <fcntl.h>

#include <algorithm>
#include <map>

#include "src/base/json.h"
#include "src/engine/erofs/tree.h"
#include "src/engine/image/install.h"
#include "src/engine/image/manifest.h"
#include "src/engine/image/tar_reader.h"

namespace vmm::engine {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFiles = 20'000;
constexpr std::size_t kMaxImages = 1000;
constexpr int kMaxLinks = 8;
constexpr int kMaxIndexDepth = 4;

std::string clean(std::string_view path) {
  std::string text;
  for (const auto& component : erofs::clean_components(path)) {
    text += (text.empty() ? "" : "/") + component;
  }
  return text;
}

// The files of the archive, as temporary blobs.
class ArchiveFiles {
 public:
  explicit ArchiveFiles(const ContentStore& content) : content_(content) {}

  Result<void> read(ByteSource& archive) {
    const auto plain = TRY(Decompressor::create(archive));
    TarReader tar(*plain);
    TRY(tar.open());
    while (TRY(tar.next())) {
      const auto name = clean(tar.name());
      if (name.empty() || tar.kind() == TarReader::Kind::directory) continue;
      if (paths_.size() + links_.size() >= kMaxFiles) {
        return fail("the archive has more than {} files", kMaxFiles);
      }
      // Older archives name equal layers by links.
      if (tar.kind() == TarReader::Kind::symlink) {
        links_[name] = clean(name + "/../" + tar.link_target());
      } else if (tar.kind() == TarReader::Kind::hard_link) {
        links_[name] = clean(tar.link_target());
      } else if (tar.kind() == TarReader::Kind::file) {
        TRY(read_file(tar, name));
      }
    }
    return {};
  }

  bool has(const std::string& path) const { return find(path).has_value(); }

  std::optional<Digest> find(std::string path) const {
    for (int i = 0; i < kMaxLinks; ++i) {
      if (const auto file = paths_.find(path); file != paths_.end()) return file->second;
      const auto link = links_.find(path);
      if (link == links_.end()) break;
      path = link->second;
    }
    return std::nullopt;
  }

  Result<Digest> need(const std::string& path) const {
    if (auto digest = find(clean(path))) return std::move(*digest);
    return fail("the archive has no file '{}'", path);
  }

  Result<std::string> read_document(const Digest& digest) const {
    const auto file = files_.find(digest);
    if (file == files_.end()) return content_.read_blob(digest, kMaxDocument);
    return read_text_file(file->second.path(), kMaxDocument);
  }

  // Of a blob that the store may have, from this archive or before.
  Result<void> publish(const Digest& digest) {
    if (content_.has(Content::blob, digest)) return {};
    const auto file = files_.find(digest);
    if (file == files_.end()) return fail("the archive has no blob {}", digest.text());
    auto taken = std::move(file->second);
    files_.erase(file);
    return content_.publish(std::move(taken), Content::blob, digest);
  }

 private:
  // The digest by which an archive names a blob: "blobs/sha256/HEX".
  static std::optional<Digest> digest_of(std::string_view name) {
    constexpr std::string_view kBlobs = "blobs/sha256/";
    if (!name.starts_with(kBlobs)) return std::nullopt;
    const auto digest = Digest::parse(fmt::format("sha256:{}", name.substr(kBlobs.size())));
    return digest ? std::optional(*digest) : std::nullopt;
  }

  // Layers are mostly those of an image that is there: they are not written once more.
  Result<void> check_file(TarReader& tar, const std::string& name, const Digest& digest) {
    Sha256 hash;
    while (const auto piece = TRY(tar.read())) hash.update(piece->bytes);
    if (hash.finish() != digest) return fail("'{}': digest mismatch", name);
    paths_.insert_or_assign(name, digest);
    return {};
  }

  Result<void> read_file(TarReader& tar, const std::string& name) {
    if (const auto digest = digest_of(name); digest && content_.has(Content::blob, *digest)) {
      return check_file(tar, name, *digest);
    }
    auto blob = TRY(BlobWriter::create(content_));
    while (const auto piece = TRY(tar.read())) {
      if (piece->offset != blob.size()) return fail("'{}' is a sparse file", name);
      TRY(blob.write(piece->bytes));
    }
    if (blob.size() != tar.size()) return fail("'{}' is a sparse file", name);
    auto written = blob.finish();
    written.file.close();
    paths_[name] = written.digest;
    files_.emplace(written.digest, std::move(written.file));
    return {};
  }

  const ContentStore& content_;
  std::map<std::string, Digest> paths_;
  std::map<std::string, std::string> links_;
  std::map<Digest, TemporaryFile> files_;
};

class Loader {
 public:
  explicit Loader(Store& store) : store_(store), files_(store.content()) {}

  Result<std::vector<LoadedImage>> load(ByteSource& archive) {
    TRY(files_.read(archive));
    const bool is_layout = files_.has("index.json");
    const bool is_docker = files_.has("manifest.json");
    if (!is_layout && !is_docker) {
      return fail("the archive has neither manifest.json nor index.json: not an image archive");
    }
    if (is_layout) TRY(find_layout_images(TRY(files_.need("index.json")), "", 0));
    if (is_docker) TRY(find_docker_images());
    std::vector<LoadedImage> loaded;
    for (const auto& found : found_) {
      for (const auto& blob : found.blobs) TRY(files_.publish(blob));
      const auto image = TRY(install_image(store_, found.manifest, found.names));
      loaded.push_back({image.id, found.names});
    }
    return loaded;
  }

 private:
  struct Found {
    Digest manifest, config;
    std::vector<Digest> blobs;  // all of it
    std::vector<Reference> names;
  };

  // The name that whoever wrote the layout gave it, if it is one.
  static std::string name_of(const Descriptor& descriptor) {
    for (const auto* key : {"io.containerd.image.name", "org.opencontainers.image.ref.name"}) {
      const auto found = descriptor.annotations.find(key);
      // A bare word is a tag without a repository.
      if (found != descriptor.annotations.end() &&
          found->second.find_first_of(":/") != std::string::npos) {
        return found->second;
      }
    }
    return {};
  }

  static void add_name(Found& found, const std::string& text) {
    const auto reference = parse_reference(text);
    if (!reference || reference->digest) return;  // it stays without that name
    const auto named = reference->with_default_tag();
    const auto same = [&named](const Reference& other) {
      return other.familiar() == named.familiar();
    };
    if (std::ranges::none_of(found.names, same)) found.names.push_back(named);
  }

  Result<void> find_layout_images(const Digest& index_digest, const std::string& outer_name,
                                  int depth) {
    if (depth > kMaxIndexDepth) return fail("its indexes are nested too deep");
    const auto index = TRY(parse_index(TRY(files_.read_document(index_digest))));
    for (const auto& entry : index.manifests) {
      auto name = name_of(entry);
      if (name.empty()) name = outer_name;
      const auto digest = entry.digest;
      auto document = files_.read_document(digest);
      // Other platforms' manifests may be left out of an archive.
      if (!document && depth > 0) continue;
      if (!document) return fail("the archive has no blob {}", digest.text());
      if (TRY(kind_of_document(*document)) == DocumentKind::index) {
        TRY(find_layout_images(digest, name, depth + 1));
        continue;
      }
      const bool says_platform = !entry.platform.architecture.empty();
      if (depth > 0 && says_platform && !Platform::of_host().accepts(entry.platform)) continue;
      const auto manifest = TRY(parse_manifest(*document));
      Found found{digest, manifest.config.digest, {digest, manifest.config.digest}, {}};
      for (const auto& layer : manifest.layers) found.blobs.push_back(layer.digest);
      if (!name.empty()) add_name(found, name);
      TRY(add(std::move(found)));
    }
    return {};
  }

  Result<void> find_docker_images() {
    const auto text = TRY(files_.read_document(TRY(files_.need("manifest.json"))));
    auto root = parse_json(text);
    if (!root) return fail("manifest.json: not valid JSON: {}", root.error().message());
    if (!root->is_array()) return fail("manifest.json: expected a list");
    for (const auto& entry : *root) TRY(find_docker_image(entry));
    return {};
  }

  Result<void> find_docker_image(const json& entry) {
    if (!entry.is_object() || !entry.contains("Config") || !entry["Config"].is_string()) {
      return fail("manifest.json: an image without a configuration");
    }
    const auto config = TRY(files_.need(entry["Config"].get<std::string>()));
    auto found = std::ranges::find(found_, config, &Found::config);
    if (found == found_.end()) {
      TRY(add(TRY(describe(config, entry))));
      found = std::prev(found_.end());
    }
    if (!entry.contains("RepoTags") || !entry["RepoTags"].is_array()) return {};
    for (const auto& tag : entry["RepoTags"]) {
      if (tag.is_string()) add_name(*found, tag.get<std::string>());
    }
    return {};
  }

  // Such archives have no manifest of the image: one is written.
  Result<Found> describe(const Digest& config, const json& entry) {
    Found found{{}, config, {config}, {}};
    TRY(files_.publish(config));
    const auto config_text = TRY(files_.read_document(config));
    Manifest manifest;
    manifest.config = {
        "application/vnd.oci.image.config.v1+json", config, config_text.size(), {}, {}};
    const bool has_layers = entry.contains("Layers") && entry["Layers"].is_array();
    if (has_layers && entry["Layers"].size() > kMaxLayers) {
      return fail("manifest.json: more than {} layers", kMaxLayers);
    }
    for (const auto& path : has_layers ? entry["Layers"] : json::array()) {
      if (!path.is_string()) return fail("manifest.json: a layer's name is not a text");
      const auto blob = TRY(files_.need(path.get<std::string>()));
      TRY(files_.publish(blob));
      const auto fd = TRY(store_.content().open_content(Content::blob, blob));
      manifest.layers.push_back({TRY(layer_media_type(store_.content(), blob)),
                                 blob,
                                 static_cast<std::uint64_t>(::lseek(fd.get(), 0, SEEK_END)),
                                 {},
                                 {}});
    }
    found.manifest = TRY(store_.content().add_blob(write_manifest(manifest)));
    return found;
  }

  Result<void> add(Found found) {
    // A layout names an image once for each of its tags.
    const auto same = std::ranges::find(found_, found.manifest, &Found::manifest);
    if (same != found_.end()) {
      for (const auto& name : found.names) add_name(*same, name.familiar());
      return {};
    }
    if (found_.size() >= kMaxImages) return fail("the archive has more than {} images", kMaxImages);
    found_.push_back(std::move(found));
    return {};
  }

  Store& store_;
  ArchiveFiles files_;
  std::vector<Found> found_;
};

}  // namespace

Result<std::vector<LoadedImage>> load_images(Store& store, ByteSource& archive) {
  return Loader(store).load(archive);
}

}  // namespace vmm::engine
