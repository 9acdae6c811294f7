#include "src/engine/image/manifest.h"

#include <sys/utsname.h>

#include <array>
#include <ctime>

#include "src/base/json.h"
#include "src/base/text.h"

namespace vmm::engine {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 2> kManifestTypes = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json"};
constexpr std::array<std::string_view, 2> kIndexTypes = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json"};
constexpr std::size_t kMaxIndexEntries = 1024;

// A field of an object; null when it has none.
const json& field(const json& object, const char* name) {
  static const json none;
  const auto found = object.find(name);
  return found == object.end() ? none : *found;
}

std::string text_of(const json& object, const char* name) {
  const auto& value = field(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

Result<json> parse_object(std::string_view what, std::string_view text) {
  auto root = parse_json(text);
  if (!root) return fail("{}: not valid JSON: {}", what, root.error().message());
  if (!root->is_object()) return fail("{}: expected a JSON object", what);
  return root;
}

// Go's names of architectures, by the kernel's.
std::string architecture_of(std::string_view machine) {
  if (machine == "x86_64") return "amd64";
  if (machine == "aarch64") return "arm64";
  return std::string(machine);
}

Result<Descriptor> parse_descriptor(std::string_view what, const json& value) {
  if (!value.is_object()) return fail("{}: expected a descriptor", what);
  Descriptor descriptor;
  descriptor.media_type = text_of(value, "mediaType");
  auto digest = Digest::parse(text_of(value, "digest"));
  if (!digest) return fail("{}: {}", what, digest.error().message());
  descriptor.digest = std::move(*digest);
  const auto& size = field(value, "size");
  if (!size.is_number_unsigned()) return fail("{}: its size is missing or not a number", what);
  descriptor.size = size.get<std::uint64_t>();
  if (const auto& platform = field(value, "platform"); platform.is_object()) {
    descriptor.platform = {text_of(platform, "os"), text_of(platform, "architecture"),
                           text_of(platform, "variant")};
  }
  if (const auto& annotations = field(value, "annotations"); annotations.is_object()) {
    for (const auto& [name, text] : annotations.items()) {
      if (text.is_string()) descriptor.annotations[name] = text.get<std::string>();
    }
  }
  return descriptor;
}

Result<std::vector<Descriptor>> parse_descriptors(std::string_view what, const json& list,
                                                  std::size_t most) {
  if (!list.is_array()) return fail("{}: expected a list", what);
  if (list.size() > most)
    return fail("{}: {} entries, at most {} are supported", what, list.size(), most);
  std::vector<Descriptor> descriptors;
  for (const auto& entry : list) descriptors.push_back(TRY(parse_descriptor(what, entry)));
  return descriptors;
}

json write_descriptor(const Descriptor& descriptor) {
  return {{"mediaType", descriptor.media_type},
          {"digest", descriptor.digest.text()},
          {"size", descriptor.size}};
}

}  // namespace

Platform Platform::of_host() {
  utsname name{};
  (void)::uname(&name);  // fails for a bad address only
  return {"linux", architecture_of(name.machine), ""};
}

Result<Platform> Platform::parse(std::string_view text) {
  auto parts = split(text, '/');
  if (parts.size() == 1 && parts[0] != "linux") parts.insert(parts.begin(), "linux");
  if (parts.size() < 2 || parts.size() > 3 || parts[0].empty() || parts[1].empty()) {
    return fail("invalid platform '{}': expected OS/ARCH[/VARIANT], such as linux/amd64", text);
  }
  return Platform{std::string(parts[0]), architecture_of(parts[1]),
                  parts.size() == 3 ? std::string(parts[2]) : ""};
}

std::string Platform::text() const {
  return os + "/" + architecture + (variant.empty() ? "" : "/" + variant);
}

bool Platform::accepts(const Platform& other) const {
  return os == other.os && architecture == other.architecture &&
         (variant.empty() || other.variant.empty() || variant == other.variant);
}

Result<DocumentKind> kind_of_document(std::string_view text) {
  const auto root = TRY(parse_object("manifest", text));
  const auto type = text_of(root, "mediaType");
  for (const auto known : kManifestTypes) {
    if (type == known) return DocumentKind::manifest;
  }
  for (const auto known : kIndexTypes) {
    if (type == known) return DocumentKind::index;
  }
  if (!type.empty()) return fail("manifest: media type '{}' is not supported", type);
  if (root.contains("manifests")) return DocumentKind::index;
  if (root.contains("config")) return DocumentKind::manifest;
  if (root.contains("fsLayers")) return fail("manifest: Docker's schema 1 is not supported");
  return fail("manifest: neither a manifest nor an index");
}

Result<Manifest> parse_manifest(std::string_view text) {
  const auto root = TRY(parse_object("manifest", text));
  Manifest manifest;
  manifest.config = TRY(parse_descriptor("manifest: config", field(root, "config")));
  manifest.layers = TRY(parse_descriptors("manifest: layers", field(root, "layers"), kMaxLayers));
  return manifest;
}

Result<Index> parse_index(std::string_view text) {
  const auto root = TRY(parse_object("index", text));
  return Index{
      TRY(parse_descriptors("index: manifests", field(root, "manifests"), kMaxIndexEntries))};
}

std::string write_manifest(const Manifest& manifest) {
  json layers = json::array();
  for (const auto& layer : manifest.layers) layers.push_back(write_descriptor(layer));
  const json root = {{"schemaVersion", 2},
                     {"mediaType", kManifestTypes[0]},
                     {"config", write_descriptor(manifest.config)},
                     {"layers", std::move(layers)}};
  return root.dump();
}

Result<ImageConfig> parse_image_config(std::string_view text) {
  ImageConfig config;
  config.json = TRY(parse_object("image configuration", text));
  const auto& root = config.json;
  config.platform = {text_of(root, "os"), text_of(root, "architecture"), text_of(root, "variant")};
  if (const auto created = text_of(root, "created"); !created.empty()) {
    config.created = TRY(parse_time(created));
  }
  const auto& rootfs = field(root, "rootfs");
  const auto& diff_ids = rootfs.is_object() ? field(rootfs, "diff_ids") : rootfs;
  if (!diff_ids.is_array() && !diff_ids.is_null()) {
    return fail("image configuration: rootfs.diff_ids is not a list");
  }
  for (const auto& id : diff_ids) {
    if (!id.is_string()) return fail("image configuration: a diff id is not a text");
    config.diff_ids.push_back(TRY(Digest::parse(id.get<std::string>())));
  }
  if (config.diff_ids.size() > kMaxLayers) {
    return fail("image configuration: {} layers, at most {} are supported", config.diff_ids.size(),
                kMaxLayers);
  }
  if (const auto& history = field(root, "history"); history.is_array()) {
    for (const auto& entry : history) {
      if (!entry.is_object()) return fail("image configuration: an entry of history is no object");
      const auto& empty = field(entry, "empty_layer");
      config.history.push_back({text_of(entry, "created"), text_of(entry, "created_by"),
                                text_of(entry, "comment"),
                                empty.is_boolean() && empty.get<bool>()});
    }
  }
  return config;
}

Result<std::int64_t> parse_time(std::string_view text) {
  const std::string copy(text);
  std::tm time{};
  const char* rest = ::strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
  if (rest == nullptr) return fail("invalid time '{}': expected 2006-01-02T15:04:05Z", text);
  std::string_view zone(rest);
  if (zone.starts_with('.')) {
    zone.remove_prefix(std::min(zone.find_first_not_of("0123456789", 1), zone.size()));
  }
  std::int64_t offset = 0;
  if (zone != "Z" && zone != "z") {
    if (zone.size() != 6 || (zone[0] != '+' && zone[0] != '-') || zone[3] != ':') {
      return fail("invalid time '{}': expected Z or +HH:MM at its end", text);
    }
    const auto hours = TRY(parse_number(zone.substr(1, 2), 0, 23, "the zone's hours"));
    const auto minutes = TRY(parse_number(zone.substr(4, 2), 0, 59, "the zone's minutes"));
    offset = static_cast<std::int64_t>(hours * 3600 + minutes * 60) * (zone[0] == '-' ? -1 : 1);
  }
  return static_cast<std::int64_t>(::timegm(&time)) - offset;
}

std::string format_time(std::int64_t seconds) {
  const auto when = static_cast<std::time_t>(seconds);
  std::tm time{};
  if (::gmtime_r(&when, &time) == nullptr) return "0001-01-01T00:00:00Z";
  std::array<char, 64> text{};
  const auto size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &time);
  return {text.data(), size};
}

}  // namespace vmm::engine
