// tag and rmi: names of images, and what goes with them.
#include "src/engine/cli/commands.h"
#include "src/engine/image/remove.h"

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
  TRY(Catalog(store).tag(*reference, words.names()[0]));
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

}  // namespace vmm::engine::cli
