#include "src/engine/registry/pull.h"

#include <algorithm>

#include "src/engine/image/install.h"
#include "src/engine/registry/transfers.h"

namespace vmm::engine {
namespace {

// The layers that the store lacks.
Result<void> download_layers(const ContentStore& content, const Reference& reference,
                             const std::optional<Credentials>& credentials,
                             const std::vector<Descriptor>& layers, const LayerEvents& events) {
  Transfers transfers([&] { return Registry(reference, credentials); }, events);
  std::vector<Descriptor> wanted;
  for (const auto& layer : layers) {
    const bool is_here = content.has(Content::blob, layer.digest);
    transfers.tell(layer.digest, is_here ? "Already exists" : "Pulling fs layer");
    if (!is_here) wanted.push_back(layer);
  }
  const auto download = [&](Registry& registry, const Descriptor& layer,
                            Progress& progress) -> Result<void> {
    auto written = TRY(registry.blob(content, layer, progress));
    transfers.tell(layer.digest, "Verifying Checksum");
    TRY(content.publish(std::move(written.file), Content::blob, layer.digest));
    transfers.tell(layer.digest, "Download complete");
    return {};
  };
  return transfers.run(wanted, download);
}

// The manifest itself, or that of the platform, where the name leads to an index.
Result<Document> find_manifest(Registry& registry, const Document& first,
                               const Platform& platform) {
  auto document = first;
  for (int depth = 0; TRY(kind_of_document(document.text)) == DocumentKind::index; ++depth) {
    constexpr int kMaxDepth = 3;
    const auto index = TRY(parse_index(document.text));
    const auto found = std::ranges::find_if(index.manifests, [&platform](const auto& entry) {
      return platform.accepts(entry.platform);
    });
    if (found == index.manifests.end() || depth == kMaxDepth) {
      return fail("no matching manifest for {} in the manifest list entries", platform.text());
    }
    document = TRY(registry.manifest(found->digest.text()));
  }
  return document;
}

}  // namespace

Result<Pulled> pull_image(Store& store, const Reference& reference, const Platform& platform,
                          const LayerEvents& events) {
  const auto& content = store.content();
  auto credentials = TRY(find_credentials(reference.registry));
  Registry registry(reference, credentials);
  const auto first =
      TRY(registry.manifest(reference.digest ? reference.digest->text() : reference.tag));
  const auto document = TRY(find_manifest(registry, first, platform));
  const auto manifest = TRY(parse_manifest(document.text));
  Catalog catalog(store);
  Pulled pulled;
  pulled.digest = first.digest;
  const auto before = TRY(catalog.by_reference(reference));
  pulled.is_new = !before || before->id != manifest.config.digest;
  TRY(content.add_blob(document.text));
  if (!content.has(Content::blob, manifest.config.digest)) {
    if (manifest.config.size > kMaxDocument) return fail("the image's configuration is too large");
    auto config = TRY(registry.blob(content, manifest.config, Progress::none()));
    TRY(content.publish(std::move(config.file), Content::blob, manifest.config.digest));
  }
  TRY(download_layers(content, reference, credentials, manifest.layers, events));
  Reference name = reference;
  name.digest = first.digest;
  pulled.image = TRY(install_image(store, document.digest, {name}, events));
  return pulled;
}

}  // namespace vmm::engine
