// images: a row for each name of each image.
#include <algorithm>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/image_filter.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/units.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr auto kNone = "<none>";

struct Name {
  std::string repository = kNone, tag = kNone, digest = kNone;
};

// Tags; repositories that know it by digest alone; or none of both.
Result<std::vector<Name>> names_of(Catalog& catalog, const Digest& id, const ImageFilter& filter) {
  std::vector<Name> names;
  const auto tags = TRY(catalog.tags(id));
  const auto digests = TRY(catalog.digests(id));
  for (const auto& tag : tags) {
    if (!filter.matches_name(tag.repository, tag.tag)) continue;
    Name name{familiar_repository(tag.repository), tag.tag, kNone};
    const auto digest = std::ranges::find(digests, tag.repository, &RepositoryDigest::repository);
    if (digest != digests.end()) name.digest = digest->digest.text();
    names.push_back(std::move(name));
  }
  for (const auto& digest : digests) {
    const bool has_tag =
        std::ranges::find(tags, digest.repository, &TagName::repository) != tags.end();
    if (has_tag || !filter.matches_name(digest.repository, kNone)) continue;
    names.push_back({familiar_repository(digest.repository), kNone, digest.digest.text()});
  }
  if (tags.empty() && digests.empty() && !filter.has_references()) names.emplace_back();
  return names;
}

Json row_of(const Image& image, const Name& name, bool whole) {
  const auto size = human_size(image.size());
  return {{"Containers", "N/A"},
          {"CreatedAt", image.created == 0 ? "N/A" : local_time(image.created)},
          {"CreatedSince", image.created == 0 ? "N/A" : human_age(image.created, now())},
          {"Digest", name.digest},
          {"ID", show_id(image.id, whole)},
          {"Repository", name.repository},
          {"SharedSize", "N/A"},
          {"Size", size},
          {"Tag", name.tag},
          {"UniqueSize", "N/A"},
          {"VirtualSize", size}};
}

}  // namespace

Result<int> images(const Words& words) {
  auto store = TRY(open_store());
  auto filter = TRY(ImageFilter::parse(store, words.list("filter")));
  if (!words.names().empty()) filter.add_reference(words.names()[0]);
  Catalog catalog(store);
  std::vector<Json> rows;
  for (const auto& image : TRY(catalog.list())) {
    if (!TRY(filter.matches(store, image))) continue;
    for (const auto& name : TRY(names_of(catalog, image.id, filter))) {
      rows.push_back(row_of(image, name, words.has("no-trunc")));
    }
  }
  RowFormat format;
  format.format = words.text("format");
  format.table =
      words.has("digests")
          ? "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
          : "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
  format.headers = {{"Containers", "CONTAINERS"},
                    {"CreatedAt", "CREATED AT"},
                    {"CreatedSince", "CREATED"},
                    {"Digest", "DIGEST"},
                    {"ID", "IMAGE ID"},
                    {"Repository", "REPOSITORY"},
                    {"SharedSize", "SHARED SIZE"},
                    {"Size", "SIZE"},
                    {"Tag", "TAG"},
                    {"UniqueSize", "UNIQUE SIZE"},
                    {"VirtualSize", "SIZE"}};
  if (words.has("quiet") && format.format.empty()) format.format = "{{.ID}}";
  print(TRY(format_rows(format, rows)));
  return 0;
}

}  // namespace vmm::engine::cli
