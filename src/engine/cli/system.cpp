// version and system df: the program, and what its store takes.
#include <nlohmann/json.hpp>
#include <sys/utsname.h>

#include <set>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/go_template.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/units.h"
#include "src/engine/image/manifest.h"
#include "src/engine/image/remove.h"
#include "src/engine/runtime/container_snapshot.h"
#include "src/engine/runtime/machine_template.h"
#include "src/engine/runtime/removal.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Sum {
  std::size_t total = 0, active = 0;
  std::uint64_t size = 0, reclaimable = 0;  // bytes
};

// Layers that images share count once; those of no container's image could go.
Result<Sum> sum_of_images(Store& store) {
  Sum sum;
  std::set<Digest> all, used;
  for (const auto& image : TRY(Catalog(store).list())) {
    const bool active = TRY(is_in_use(store, image.id));
    ++sum.total;
    sum.active += active ? 1 : 0;
    for (const auto& layer : image.layers) {
      if (all.insert(layer.diff_id).second) sum.size += layer.size;
      if (active && used.insert(layer.diff_id).second) sum.reclaimable += layer.size;
    }
  }
  sum.reclaimable = sum.size - sum.reclaimable;
  return sum;
}

Result<Sum> sum_of_containers(Store& store) {
  Sum sum;
  Containers containers(store);
  for (const auto& container : TRY(containers.list())) {
    const auto size = disk_usage(containers.directory(container.id));
    ++sum.total;
    sum.active += container.is_running() ? 1 : 0;
    sum.size += size;
    if (!container.is_running()) sum.reclaimable += size;
  }
  return sum;
}

// Those of which containers are made cannot go.
Result<Sum> sum_of_snapshots(Store& store) {
  Sum sum;
  ContainerSnapshots snapshots(store);
  for (const auto& snapshot : TRY(snapshots.list())) {
    const auto size = disk_usage(snapshots.directory(snapshot.id));
    const bool active = !TRY(snapshots.users(snapshot)).empty();
    ++sum.total;
    sum.active += active ? 1 : 0;
    sum.size += size;
    if (!active) sum.reclaimable += size;
  }
  return sum;
}

Sum sum_of_templates(const Store& store) {
  const auto usage = MachineTemplates(store.root()).usage();
  return {.total = usage.count, .active = 0, .size = usage.bytes, .reclaimable = usage.bytes};
}

Json row_of(std::string_view type, const Sum& sum) {
  auto reclaimable = human_size(sum.reclaimable);
  if (sum.size > 0) reclaimable += fmt::format(" ({}%)", sum.reclaimable * 100 / sum.size);
  return {{"Active", fmt::format("{}", sum.active)},
          {"Reclaimable", reclaimable},
          {"Size", human_size(sum.size)},
          {"TotalCount", fmt::format("{}", sum.total)},
          {"Type", type}};
}

}  // namespace

Result<int> system_df(const Words& words) {
  auto store = TRY(open_store());
  const std::vector<Json> rows = {row_of("Images", TRY(sum_of_images(store))),
                                  row_of("Containers", TRY(sum_of_containers(store))),
                                  row_of("Snapshots", TRY(sum_of_snapshots(store))),
                                  row_of("Machine Templates", sum_of_templates(store))};
  RowFormat format;
  format.format = words.text("format");
  format.table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
  format.headers = {{"Active", "ACTIVE"},
                    {"Reclaimable", "RECLAIMABLE"},
                    {"Size", "SIZE"},
                    {"TotalCount", "TOTAL"},
                    {"Type", "TYPE"}};
  print(TRY(format_rows(format, rows)));
  return 0;
}

Result<int> version(const Words& words) {
  utsname host{};
  (void)::uname(&host);  // cannot fail
  const Json one = {{"Version", VMM_VERSION},
                    {"Os", "linux"},
                    {"Arch", Platform::of_host().architecture},
                    {"KernelVersion", host.release}};
  const Json both = {{"Client", one}, {"Server", one}};
  const auto format = words.text("format");
  if (format == "json") {
    print(both.dump() + "\n");
  } else if (!format.empty()) {
    print(TRY(TRY(GoTemplate::parse(format)).render(both)) + "\n");
  } else {
    // There is no daemon: both are this program.
    for (const auto* title : {"Client", "Server"}) {
      print(fmt::format("{}:\n Version:  {}\n OS/Arch:  linux/{}\n", title, VMM_VERSION,
                        Platform::of_host().architecture));
    }
  }
  return 0;
}

}  // namespace vmm::engine::cli
