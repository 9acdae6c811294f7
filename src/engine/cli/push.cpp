// push: an image to its registry.
#include "src/engine/registry/push.h"

#include <stdio.h>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/watched_transfer.h"

namespace vmm::engine::cli {
namespace {

enum class Output : std::uint8_t { lines, names };

Result<void> push_one(Store& store, const Reference& reference, Output output) {
  const auto image = TRY(Catalog(store).by_reference(reference));
  if (!image) return fail("tag does not exist: {}", reference.familiar());
  WatchedTransfer transfer(output == Output::lines ? stdout : nullptr);
  const auto pushed = push_image(store, *image, reference, transfer.events());
  transfer.finish(pushed.has_value(), fmt::format("'{}' was not pushed", reference.familiar()));
  if (!pushed) return std::unexpected(pushed.error());
  print(output == Output::lines ? fmt::format("{}: digest: {} size: {}\n", reference.tag,
                                              pushed->digest.text(), pushed->size)
                                : reference.repository() + ":" + reference.tag + "\n");
  return {};
}

}  // namespace

Result<int> push(const Words& words) {
  auto reference = TRY(parse_reference(words.names()[0]));
  const auto output = words.has("quiet") ? Output::names : Output::lines;
  const bool all = words.has("all-tags");
  if (reference.digest) return fail("cannot push a digest reference");
  if (all && !reference.tag.empty()) {
    return fail("tag can't be used with --all-tags/-a");
  }
  if (!all && reference.tag.empty() && output == Output::lines) {
    print("Using default tag: latest\n");
  }
  auto store = TRY(open_store());
  const auto tags = TRY(Catalog(store).tags_of(reference.repository()));
  if (tags.empty()) {
    return fail("An image does not exist locally with the tag: {}",
                familiar_repository(reference.repository()));
  }
  if (output == Output::lines) {
    print(fmt::format("The push refers to repository [{}]\n", reference.repository()));
    std::fflush(stdout);
  }
  if (!all) {
    TRY(push_one(store, reference.with_default_tag(), output));
    return 0;
  }
  for (const auto& tag : tags) {
    reference.tag = tag.tag;
    TRY(push_one(store, reference, output));
  }
  return 0;
}

}  // namespace vmm::engine::cli
