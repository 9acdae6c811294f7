// pull: an image from a registry.
#include "src/engine/registry/pull.h"

#include <stdio.h>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/watched_transfer.h"

namespace vmm::engine::cli {
namespace {

// `out`: standard output or error, which gets its layers; nullptr: says nothing.
Result<void> pull_watched(Store& store, const Reference& reference, const Platform& platform,
                          FILE* out) {
  WatchedTransfer transfer(
      out,
      fmt::format("{}: Pulling from {}\n",
                  reference.digest ? reference.digest->text() : reference.tag, reference.path));
  const auto pulled = pull_image(store, reference, platform, transfer.events());
  transfer.finish(pulled.has_value(),
                  fmt::format("'{}' was not pulled; layers that came whole are kept for the next "
                              "pull",
                              reference.familiar()));
  if (!pulled) return std::unexpected(pulled.error());
  if (out == nullptr) return {};
  fmt::print(out, "Digest: {}\nStatus: {} for {}\n", pulled->digest.text(),
             pulled->is_new ? "Downloaded newer image" : "Image is up to date",
             reference.familiar());
  return {};
}

Result<Platform> platform_of(const Words& words) {
  return words.has("platform") ? Platform::parse(words.text("platform")) : Platform::of_host();
}

}  // namespace

Result<int> pull_for_container(const Words& words) {
  const auto reference = TRY(parse_reference(words.names()[0])).with_default_tag();
  auto store = TRY(open_store());
  // On standard error: standard output is the container's.
  const bool quiet = words.has("quiet");
  const bool is_missing = words.text("pull") != "always";
  if (!quiet && is_missing)
    fmt::print(stderr, "Unable to find image '{}' locally\n", reference.familiar());
  TRY(pull_watched(store, reference, TRY(platform_of(words)), quiet ? nullptr : stderr));
  return 0;
}

Result<int> pull(const Words& words) {
  auto reference = TRY(parse_reference(words.names()[0]));
  const bool quiet = words.has("quiet");
  if (reference.tag.empty() && !reference.digest && !quiet) {
    print("Using default tag: latest\n");
  }
  reference = reference.with_default_tag();
  // Both: the digest says which, and Docker leaves the tag alone.
  if (reference.digest) reference.tag.clear();
  const auto platform = TRY(platform_of(words));
  auto store = TRY(open_store());
  TRY(pull_watched(store, reference, platform, quiet ? nullptr : stdout));
  print(fmt::format("{}{}\n", reference.repository(),
                    reference.digest ? "@" + reference.digest->text() : ":" + reference.tag));
  return 0;
}

}  // namespace vmm::engine::cli
