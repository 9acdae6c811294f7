// history: how an image was built, the last step first.
#include <algorithm>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/units.h"
#include "src/engine/image/manifest.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kMaxCommand = 45;

// At most 45 characters, the last of them an ellipsis.
std::string shorten(const std::string& text) {
  std::size_t characters = 0, cut = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xc0) == 0x80) continue;
    if (++characters == kMaxCommand) cut = i;
  }
  return characters <= kMaxCommand ? text : text.substr(0, cut) + "…";
}

}  // namespace

Result<int> history(const Words& words) {
  auto store = TRY(open_store());
  const auto image = TRY(Catalog(store).find(words.names()[0]));
  const auto config =
      TRY(parse_image_config(TRY(store.content().read_blob(image.id, kMaxDocument))));
  const bool whole = words.has("no-trunc");
  const bool human = !words.is_off("human");
  std::vector<Json> rows;
  std::size_t layer = 0;
  for (const auto& entry : config.history) {
    std::uint64_t size = 0;
    if (!entry.empty_layer && layer < image.layers.size()) size = image.layers[layer++].size;
    const auto created = parse_time(entry.created).value_or(0);
    auto command = entry.created_by;
    std::ranges::replace(command, '\t', ' ');
    rows.push_back({{"Comment", entry.comment},
                    {"CreatedAt", created == 0 ? "N/A" : format_time(created)},
                    {"CreatedBy", whole ? command : shorten(command)},
                    {"CreatedSince", created == 0 ? "N/A" : human_age(created, now())},
                    {"ID", "<missing>"},
                    {"Size", human ? human_size(size) : std::to_string(size)}});
  }
  if (!rows.empty()) rows.back()["ID"] = show_id(image.id, whole);
  std::ranges::reverse(rows);
  RowFormat format;
  format.format = words.text("format");
  format.table = human ? "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
                       : "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
  format.headers = {{"Comment", "COMMENT"},
                    {"CreatedAt", "CREATED AT"},
                    {"CreatedBy", "CREATED BY"},
                    {"CreatedSince", "CREATED"},
                    {"ID", "IMAGE"},
                    {"Size", "SIZE"}};
  if (words.has("quiet") && format.format.empty()) format.format = "{{.ID}}";
  print(TRY(format_rows(format, rows)));
  return 0;
}

}  // namespace vmm::engine::cli
