// tag, rmi and image prune: names of images, and what goes with them.
#include <stdio.h>

#include <iostream>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/image_filter.h"
#include "src/engine/cli/units.h"
#include "src/engine/image/remove.h"
#include "src/engine/runtime/container.h"

namespace vmm::engine::cli {

Result<int> tag(const Words& words) {
  const auto& target = words.names()[1];
  const auto reference = parse_reference(target);
  if (!reference) {
    return fail("Error parsing reference: \"{}\" is not a valid repository/tag: {}", target,
                reference.error().message());
  }
  if (reference->digest) return fail("refusing to create a tag with a digest reference");
  auto store = TRY(open_store());
  Catalog catalog(store);
  TRY(catalog.tag(*reference, TRY(catalog.find(words.names()[0])).id));
  return 0;
}

Result<int> remove_images(const Words& words) {
  auto store = TRY(open_store());
  const auto force = words.has("force") ? Force::yes : Force::no;
  bool failed = false;
  for (const auto& name : words.names()) {
    const auto removal = remove_image(store, name, force);
    if (!removal) {
      const auto& text = removal.error().message();
      print_error(text);
      failed |= force == Force::no || !text.starts_with("No such image");
      continue;
    }
    for (const auto& one : removal->untagged) print("Untagged: " + one + "\n");
    for (const auto& id : removal->deleted) print("Deleted: " + id.text() + "\n");
  }
  TRY(store.collect_garbage());
  return failed ? 1 : 0;
}

Result<int> image_prune(const Words& words) {
  const bool all = words.has("all");
  if (!words.has("force")) {
    print(all ? "WARNING! This will remove all images without at least one container associated "
                "to them.\n"
              : "WARNING! This will remove all dangling images.\n");
    print("Are you sure you want to continue? [y/N] ");
    std::fflush(stdout);
    std::string answer;
    std::getline(std::cin, answer);
    if (answer != "y" && answer != "Y") return 0;
  }
  auto store = TRY(open_store());
  const auto filter = TRY(ImageFilter::parse(store, words.list("filter")));
  Catalog catalog(store);
  std::string deleted;
  for (const auto& image : TRY(catalog.list())) {
    if (!all && !TRY(catalog.tags(image.id)).empty()) continue;
    if (!TRY(filter.matches(store, image))) continue;
    if (!TRY(Containers(store).using_image(image.id)).empty()) continue;
    const auto removal = TRY(remove_with_all_names(store, image));
    for (const auto& one : removal.untagged) deleted += "untagged: " + one + "\n";
    for (const auto& id : removal.deleted) deleted += "deleted: " + id.text() + "\n";
  }
  const auto freed = TRY(store.collect_garbage());
  if (!deleted.empty()) print("Deleted Images:\n" + deleted + "\n");
  print("Total reclaimed space: " + human_size(freed) + "\n");
  return 0;
}

}  // namespace vmm::engine::cli
