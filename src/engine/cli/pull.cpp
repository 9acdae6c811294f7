// pull: an image from a registry.
#include "src/engine/registry/pull.h"

#include <stdio.h>

#include "src/engine/cli/commands.h"

namespace vmm::engine::cli {

Result<int> pull(const Words& words) {
  auto reference = TRY(parse_reference(words.names()[0]));
  const bool quiet = words.has("quiet");
  if (reference.tag.empty() && !reference.digest && !quiet) {
    print("Using default tag: latest\n");
  }
  reference = reference.with_default_tag();
  // Both: the digest says which, and Docker leaves the tag alone.
  if (reference.digest) reference.tag.clear();
  const auto platform =
      words.has("platform") ? TRY(Platform::parse(words.text("platform"))) : Platform::of_host();
  auto store = TRY(open_store());
  bool has_begun = false;
  const auto begin = [&] {
    if (!has_begun && !quiet) {
      print(fmt::format("{}: Pulling from {}\n",
                        reference.digest ? reference.digest->text() : reference.tag,
                        reference.path));
    }
    has_begun = true;
  };
  PullEvents events;
  events.on_layer = [&](const Digest& layer, std::string_view what) {
    begin();
    if (!quiet) print(fmt::format("{}: {}\n", layer.short_hex(), what));
    std::fflush(stdout);
  };
  const auto pulled = TRY(pull_image(store, reference, platform, events));
  const auto whole =
      fmt::format("{}{}", reference.repository(),
                  reference.digest ? "@" + reference.digest->text() : ":" + reference.tag);
  if (!quiet) {
    begin();
    print(fmt::format("Digest: {}\nStatus: {} for {}\n", pulled.digest.text(),
                      pulled.is_new ? "Downloaded newer image" : "Image is up to date",
                      reference.familiar()));
  }
  print(whole + "\n");
  return 0;
}

}  // namespace vmm::engine::cli
