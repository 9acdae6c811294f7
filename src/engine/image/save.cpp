#include "src/engine/image/save.h"

#include <sys/stat.h>

#include <set>

#include "src/engine/image/byte_source.h"
#include "src/engine/image/manifest.h"
#include "src/engine/image/tar_writer.h"

namespace vmm::engine {
namespace {

using nlohmann::json;

std::string blob_path(const Digest& digest) { return "blobs/sha256/" + digest.hex(); }

erofs::Inode file_of_size(std::uint64_t size) {
  erofs::Inode inode;
  inode.mode = S_IFREG | 0644;
  inode.size = size;
  return inode;
}

class Saver {
 public:
  Saver(const ContentStore& content, int fd) : content_(content), tar_(fd) {}

  Result<void> save(const std::vector<SavedImage>& images) {
    TRY(tar_.open());
    for (const auto& [image, names] : images) {
      std::vector<std::string> layers;
      for (const auto& layer : image.layers) {
        TRY(add_blob(layer.blob));
        layers.push_back(blob_path(layer.blob));
      }
      TRY(add_blob(image.id));
      TRY(add_blob(image.manifest));
      add_to_index(image, names, TRY(content_.read_blob(image.manifest, kMaxDocument)));
      docker_.push_back({{"Config", blob_path(image.id)},
                         {"RepoTags", names.empty() ? json() : json(names)},
                         {"Layers", layers}});
    }
    TRY(add_text("oci-layout", R"({"imageLayoutVersion":"1.0.0"})"));
    TRY(add_text("index.json", json{{"schemaVersion", 2},
                                    {"mediaType", "application/vnd.oci.image.index.v1+json"},
                                    {"manifests", index_}}
                                   .dump()));
    TRY(add_text("manifest.json", docker_.dump()));
    return tar_.finish();
  }

 private:
  void add_to_index(const Image& image, const std::vector<std::string>& names,
                    const std::string& manifest) {
    const auto root = json::parse(manifest);  // which was parsed when the image was made
    json descriptor = {
        {"mediaType", root.value("mediaType", "application/vnd.oci.image.manifest.v1+json")},
        {"digest", image.manifest.text()},
        {"size", manifest.size()},
        {"platform", {{"os", image.os}, {"architecture", image.architecture}}}};
    if (names.empty()) index_.push_back(descriptor);
    for (const auto& name : names) {
      descriptor["annotations"] = {{"io.containerd.image.name", full_name(name)},
                                   {"org.opencontainers.image.ref.name", tag_of(name)}};
      index_.push_back(descriptor);
    }
  }

  static std::string full_name(const std::string& name) {
    const auto reference = parse_reference(name);
    return reference ? reference->repository() + ":" + reference->tag : name;
  }
  static std::string tag_of(const std::string& name) {
    const auto reference = parse_reference(name);
    return reference ? reference->tag : "";
  }

  Result<void> add_text(const std::string& name, const std::string& text) {
    return tar_.add(file_of_size(text.size()), {name, ""}, text);
  }

  Result<void> add_blob(const Digest& digest) {
    if (!added_.insert(digest).second) return {};
    const auto fd = TRY(content_.open_content(Content::blob, digest));
    struct stat status{};
    if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot examine a blob");
    TRY(tar_.add(file_of_size(static_cast<std::uint64_t>(status.st_size)),
                 {blob_path(digest), ""}));
    FileSource source(fd.get());
    Sha256 hash;
    std::vector<std::byte> buffer(256u << 10);
    while (const auto n = TRY(source.read(buffer))) {
      hash.update(std::span(buffer).first(n));
      TRY(tar_.write(std::span(buffer).first(n)));
    }
    if (hash.finish() != digest) return fail("blob {}: digest mismatch", digest.text());
    return {};
  }

  const ContentStore& content_;
  TarWriter tar_;
  std::set<Digest> added_;
  json index_ = json::array(), docker_ = json::array();
};

}  // namespace

Result<void> save_images(Store& store, const std::vector<SavedImage>& images, int fd) {
  return Saver(store.content(), fd).save(images);
}

}  // namespace vmm::engine
