// inspect: containers and images as the Engine's API describes them.
#include "src/base/json.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/container_inspect.h"
#include "src/engine/cli/go_template.h"
#include "src/engine/image/manifest.h"
#include "src/engine/runtime/container_snapshot.h"
#include "src/engine/runtime/removal.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

Result<Json> describe(Store& store, const Image& image) {
  Catalog catalog(store);
  const auto& content = store.content();
  const auto text = TRY(content.read_blob(image.id, kMaxDocument));
  const auto config = TRY(parse_ordered_json(text));
  const auto field = [&config](const char* name) {
    const auto found = config.find(name);
    return found == config.end() || !found->is_string() ? Json("") : *found;
  };
  Json tags = Json::array(), digests = Json::array(), layers = Json::array();
  std::int64_t updated = 0;
  for (const auto& tag : TRY(catalog.tags(image.id))) {
    tags.push_back(tag.familiar());
    updated = std::max(updated, tag.updated);
  }
  for (const auto& digest : TRY(catalog.digests(image.id))) digests.push_back(digest.familiar());
  // What a machine's disk is made of, in this order.
  auto files = content.path(Content::merged, image.id);
  for (const auto& layer : image.layers) {
    layers.push_back(layer.diff_id.text());
    files += ":" + content.path(Content::layer, layer.diff_id);
  }
  Json object = {{"Id", image.id.text()},
                 {"RepoTags", tags},
                 {"RepoDigests", digests},
                 {"Parent", ""},
                 {"Comment", field("comment")},
                 {"Created", field("created")},
                 {"DockerVersion", field("docker_version")},
                 {"Author", field("author")},
                 {"Config", config.value("config", Json())},
                 {"Architecture", image.architecture}};
  if (const auto variant = field("variant"); variant != "") object["Variant"] = variant;
  object["Os"] = image.os;
  object["Size"] = image.size();
  object["GraphDriver"] = {{"Data", {{"Files", files}}}, {"Name", "erofs"}};
  object["RootFS"] = {{"Type", "layers"}, {"Layers", layers}};
  object["Metadata"] = {
      {"LastTagTime", updated == 0 ? "0001-01-01T00:00:00Z" : format_time(updated)}};
  return object;
}

Result<Json> describe(ContainerSnapshots& snapshots, const ContainerSnapshot& snapshot) {
  const auto spec = TRY(snapshots.spec(snapshot));
  return Json{{"Id", snapshot.id},
              {"Name", snapshot.name},
              {"Created", format_time(snapshot.created / 1'000'000'000)},
              {"Image", snapshot.image.text()},
              {"ImageName", snapshot.image_name},
              {"Container", snapshot.container_name},
              {"Containers", TRY(snapshots.users(snapshot))},
              {"Command", spec.arguments()},
              {"Path", snapshots.machine(snapshot.id)},
              {"Size", disk_usage(snapshots.directory(snapshot.id))}};
}

// Of each name what `find` knows; what is not there is said at the end.
Result<int> show(const Words& words, auto find) {
  const auto format = words.text("format");
  const bool is_json = format.empty() || format == "json";
  Json found = Json::array();
  std::vector<std::string> missing;
  for (const auto& name : words.names()) {
    if (auto object = Result<Json>(find(name))) {
      found.push_back(std::move(*object));
    } else {
      missing.push_back(object.error().message());
    }
  }
  if (is_json) {
    const int indent = format.empty() ? 4 : -1;
    print(found.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    const auto row = TRY(GoTemplate::parse(format));
    for (const auto& object : found) print(TRY(row.render(object)) + "\n");
  }
  for (const auto& text : missing) print_error(text);
  return missing.empty() ? 0 : 1;
}

}  // namespace

Result<int> image_inspect(const Words& words) {
  auto store = TRY(open_store());
  return show(words, [&](const std::string& name) -> Result<Json> {
    return describe(store, TRY(Catalog(store).find(name)));
  });
}

Result<int> snapshot_inspect(const Words& words) {
  auto store = TRY(open_store());
  ContainerSnapshots snapshots(store);
  return show(words, [&](const std::string& name) -> Result<Json> {
    return describe(snapshots, TRY(snapshots.find(name)));
  });
}

Result<int> inspect(const Words& words) {
  auto store = TRY(open_store());
  Containers containers(store);
  return show(words, [&](const std::string& name) -> Result<Json> {
    if (const auto container = containers.find(name)) return describe(containers, *container);
    const auto image = Catalog(store).find(name);
    if (!image) {
      return fail("{}No such object: {}", program() == "docker" ? "Error: " : "", name);
    }
    return describe(store, *image);
  });
}

}  // namespace vmm::engine::cli
