// container prune, image prune and system prune: what nobody uses goes.
#include <stdio.h>

#include <iostream>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/container_filter.h"
#include "src/engine/cli/image_filter.h"
#include "src/engine/cli/units.h"
#include "src/engine/image/remove.h"
#include "src/engine/runtime/container_snapshot.h"
#include "src/engine/runtime/machine_template.h"
#include "src/engine/runtime/removal.h"

namespace vmm::engine::cli {
namespace {

using Filters = std::vector<std::string>;

// Whether the person has said so, now or by --force.
bool is_wanted(const Words& words, const std::string& warning) {
  if (words.has("force")) return true;
  print(warning +
        "Snapshots of containers stay, and so do their images.\nAre you sure you want to continue? "
        "[y/N] ");
  std::fflush(stdout);
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y";
}

struct Pruned {
  std::string text;         // of what went, with its title; "": nothing did
  std::uint64_t freed = 0;  // bytes
};

Result<Pruned> prune_containers(Store& store, const ContainerFilter& filter) {
  Containers containers(store);
  Pruned pruned;
  for (const auto& container : TRY(containers.list())) {
    if (container.is_running() || !TRY(filter.matches(store, container))) continue;
    const auto size = disk_usage(containers.directory(container.id));
    if (!remove_container(store.root(), container, Force::no)) continue;  // started meanwhile
    pruned.freed += size;
    pruned.text += container.id + "\n";
  }
  if (!pruned.text.empty()) pruned.text = "Deleted Containers:\n" + pruned.text + "\n";
  return pruned;
}

// Those without a name, or all that no container has.
Result<Pruned> prune_images(Store& store, bool all, const ImageFilter& filter) {
  Catalog catalog(store);
  Pruned pruned;
  for (const auto& image : TRY(catalog.list())) {
    if (!TRY(filter.matches(store, image))) continue;
    const auto removal = TRY(remove_unused(store, image, all ? Unused::all : Unused::without_tags));
    if (!removal) continue;
    for (const auto& one : removal->untagged) pruned.text += "untagged: " + one + "\n";
    for (const auto& id : removal->deleted) pruned.text += "deleted: " + id.text() + "\n";
  }
  pruned.freed = TRY(store.collect_garbage());
  if (!pruned.text.empty()) pruned.text = "Deleted Images:\n" + pruned.text + "\n";
  return pruned;
}

void tell(const Pruned& pruned) {
  print(pruned.text + "Total reclaimed space: " + human_size(pruned.freed) + "\n");
}

// Containers and images have other filters besides.
Result<void> check_filters(const Filters& filters) {
  for (const auto& text : filters) {
    const auto key = text.substr(0, text.find('='));
    if (key != "label" && key != "label!" && key != "until") {
      return fail("invalid filter '{}'", key);
    }
  }
  return {};
}

}  // namespace

Result<int> container_prune(const Words& words) {
  if (!is_wanted(words, "WARNING! This will remove all stopped containers.\n")) return 0;
  auto store = TRY(open_store());
  Containers containers(store);
  const auto filter = TRY(ContainerFilter::parse(containers, words.list("filter")));
  tell(TRY(prune_containers(store, filter)));
  return 0;
}

Result<int> image_prune(const Words& words) {
  const bool all = words.has("all");
  if (!is_wanted(words, all ? "WARNING! This will remove all images without at least one container "
                              "associated to them.\n"
                            : "WARNING! This will remove all dangling images.\n")) {
    return 0;
  }
  auto store = TRY(open_store());
  tell(TRY(prune_images(store, all, TRY(ImageFilter::parse(store, words.list("filter"))))));
  return 0;
}

Result<int> system_prune(const Words& words) {
  const bool all = words.has("all");
  const auto filters = words.list("filter");
  TRY(check_filters(filters));
  auto warning = fmt::format(
      "WARNING! This will remove:\n  - all stopped containers\n{}  - all {}\n",
      filters.empty() ? "  - all machine templates\n" : "",
      all ? "images without at least one container associated to them" : "dangling images");
  if (!filters.empty()) warning += "\n  Items to be pruned will be filtered with:\n";
  for (const auto& text : filters) warning += "  - " + text + "\n";
  if (!is_wanted(words, warning + "\n")) return 0;
  auto store = TRY(open_store());
  Containers containers(store);
  TRY(ContainerSnapshots(store).remove_orphans());
  const auto of_containers = TRY(ContainerFilter::parse(containers, filters));
  const auto of_images = TRY(ImageFilter::parse(store, filters));
  auto pruned = TRY(prune_containers(store, of_containers));
  const auto images = TRY(prune_images(store, all, of_images));
  pruned.text += images.text;
  pruned.freed += images.freed;
  // The next start of each kind of machine boots. They have no labels, and no time of their making.
  if (filters.empty()) pruned.freed += MachineTemplates(store.root()).prune(0);
  tell(pruned);
  return 0;
}

}  // namespace vmm::engine::cli
