// ps: containers in a table, in the words of Docker.
#include <nlohmann/json.hpp>

#include <algorithm>

#include "src/base/file_time.h"
#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/container_filter.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/run_options.h"
#include "src/engine/cli/units.h"
#include "src/engine/runtime/removal.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string status_of(const Container& container) {
  const auto now = now_in_nanoseconds();
  const auto since = [now](std::int64_t time) {
    return human_duration((now - time) / kNanosecondsPerSecond);
  };
  switch (container.state) {
    case ContainerState::created:
      return "Created";
    case ContainerState::running:
      return "Up " + since(container.started);
    case ContainerState::paused:
      return fmt::format("Up {} (Paused)", since(container.started));
    case ContainerState::exited:
      break;
  }
  return fmt::format("Exited ({}) {} ago", container.exit_code, since(container.finished));
}

// "a b" in quotes, cut to 20 characters with the quotes.
std::string command_of(const Container& container, bool whole) {
  constexpr std::size_t kWidth = 20;
  std::string text;
  for (const auto& word : container.spec.arguments()) text += (text.empty() ? "" : " ") + word;
  if (!whole && text.size() > kWidth - 2) {
    std::size_t end = kWidth - 3;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
    text = text.substr(0, end) + "…";
  }
  return "\"" + text + "\"";
}

std::string ports_of(const Container& container) {
  std::string text;
  const auto add = [&text](const std::string& port) { text += (text.empty() ? "" : ", ") + port; };
  if (container.is_running()) {
    for (const auto& port : container.spec.ports) add(to_text(port));
  }
  for (const auto& port : container.spec.exposed) {
    const bool published = std::ranges::any_of(container.spec.ports, [&](const auto& one) {
      return fmt::format("{}/{}", one.container_port, one.protocol) == port;
    });
    if (!published && container.is_running()) add(port);
  }
  return text;
}

std::string size_of(const Containers& containers, Store& store, const Container& container) {
  const auto written = disk_usage(containers.directory(container.id));
  const auto image = Catalog(store).by_id(container.image);
  const auto below = image && *image ? (*image)->size() : 0;
  return fmt::format("{} (virtual {})", human_size(written), human_size(written + below));
}

Json row_of(const Container& container, bool whole) {
  std::string labels;
  for (const auto& label : container.spec.labels) labels += (labels.empty() ? "" : ",") + label;
  return {{"Command", command_of(container, whole)},
          {"CreatedAt", local_time(container.created / kNanosecondsPerSecond)},
          {"HealthStatus", ""},
          {"ID", whole ? container.id : container.short_id()},
          {"Image", container.image_name},
          {"Labels", labels},
          {"LocalVolumes", "0"},
          {"Mounts", ""},
          {"Names", container.name},
          {"Networks", container.spec.network == "default" ? "bridge" : container.spec.network},
          {"Ports", ports_of(container)},
          {"RunningFor", human_age(container.created / kNanosecondsPerSecond, now())},
          {"Size", "0B"},
          {"State", to_text(container.state)},
          {"Status", status_of(container)}};
}

RowFormat format_of(const Words& words) {
  RowFormat format;
  format.format = words.text("format");
  format.table =
      words.has("size")
          ? "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t"
            "{{.Names}}\t{{.Size}}"
          : "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t"
            "{{.Names}}";
  format.headers = {{"Command", "COMMAND"},
                    {"CreatedAt", "CREATED AT"},
                    {"HealthStatus", "HEALTH STATUS"},
                    {"ID", "CONTAINER ID"},
                    {"Image", "IMAGE"},
                    {"Labels", "LABELS"},
                    {"LocalVolumes", "LOCAL VOLUMES"},
                    {"Mounts", "MOUNTS"},
                    {"Names", "NAMES"},
                    {"Networks", "NETWORKS"},
                    {"Ports", "PORTS"},
                    {"RunningFor", "CREATED"},
                    {"Size", "SIZE"},
                    {"State", "STATE"},
                    {"Status", "STATUS"}};
  if (words.has("quiet") && format.format.empty()) format.format = "{{.ID}}";
  return format;
}

}  // namespace

Result<int> ps(const Words& words) {
  auto store = TRY(open_store());
  Containers containers(store);
  const auto filter = TRY(ContainerFilter::parse(containers, words.list("filter")));
  std::size_t most = ~std::size_t{0};
  if (words.has("last")) most = TRY(parse_number(words.text("last"), 0, 1u << 30, "last"));
  if (words.has("latest")) most = 1;
  const bool all =
      words.has("all") || words.has("last") || words.has("latest") || filter.asks_for_stopped();
  std::vector<Json> rows;
  for (const auto& container : TRY(containers.list())) {
    if (rows.size() == most) break;
    if (!all && !container.is_running()) continue;
    if (!TRY(filter.matches(store, container))) continue;
    rows.push_back(row_of(container, words.has("no-trunc")));
    if (words.has("size")) rows.back()["Size"] = size_of(containers, store, container);
  }
  print(TRY(format_rows(format_of(words), rows)));
  return 0;
}

}  // namespace vmm::engine::cli
