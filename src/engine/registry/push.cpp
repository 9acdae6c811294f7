#include "src/engine/registry/push.h"

#include "src/base/json.h"
#include "src/engine/registry/transfers.h"

namespace vmm::engine {
namespace {

constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";

// OCI's manifests need not say it.
std::string media_type_of(const std::string& manifest) {
  const auto root = parse_json(manifest);
  if (root && root->is_object() && root->contains("mediaType")) {
    const auto& type = (*root)["mediaType"];
    const auto text = type.is_string() ? type.get<std::string>() : std::string();
    // It becomes a line of a request.
    if (!text.empty() && text.find_first_of("\r\n") == std::string::npos) return text;
  }
  return std::string(kOciManifest);
}

}  // namespace

Result<Pushed> push_image(Store& store, const Image& image, const Reference& reference,
                          const LayerEvents& events) {
  const auto& content = store.content();
  const auto credentials = TRY(find_credentials(reference.registry));
  const Document document{TRY(content.read_blob(image.manifest, kMaxDocument)), image.manifest};
  const auto manifest = TRY(parse_manifest(document.text));
  const auto upload = [&](Registry& registry, const Descriptor& blob,
                          Progress& progress) -> Result<std::string_view> {
    if (TRY(registry.has_blob(blob.digest))) return "Layer already exists";
    const auto file = TRY(content.open_content(Content::blob, blob.digest));
    TRY(registry.upload_blob(blob, file.get(), progress));
    return "Pushed";
  };
  for (const auto& layer : manifest.layers) events.tell(layer.digest, "Preparing");
  Transfers transfers([&] { return Registry(reference, credentials, Access::push); }, events);
  const auto push = [&](Registry& registry, const Descriptor& layer,
                        Progress& progress) -> Result<void> {
    transfers.tell(layer.digest, TRY(upload(registry, layer, progress)));
    return {};
  };
  TRY(transfers.run(manifest.layers, push));
  Registry registry(reference, credentials, Access::push);
  TRY(upload(registry, manifest.config, Progress::none()));
  TRY(registry.upload_manifest(reference.tag, document, media_type_of(document.text)));
  Reference name = reference;
  name.tag.clear();
  name.digest = document.digest;
  TRY(Catalog(store).add(image, {name}));
  return Pushed{document.digest, document.text.size()};
}

}  // namespace vmm::engine
