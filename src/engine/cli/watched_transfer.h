// WatchedTransfer: the layers of a pull or push for the person who waits for it, by LayerLines.
// Ctrl-C, SIGTERM and SIGHUP cancel it from its first layer on; before, they end the program.
//
//   WatchedTransfer transfer(stdout);
//   auto pulled = pull_image(store, reference, platform, transfer.events());
//   transfer.finish(pulled.has_value(), "...");
#pragma once

#include <stdio.h>

#include <optional>
#include <string>
#include <string_view>

#include "src/engine/cli/interruption.h"
#include "src/engine/cli/layer_lines.h"

namespace vmm::engine::cli {

class WatchedTransfer {
 public:
  // `out`: standard output or error; nullptr: says nothing. `before` goes before the first layer.
  explicit WatchedTransfer(FILE* out, std::string before = {});
  WatchedTransfer(const WatchedTransfer&) = delete;

  const LayerEvents& events() const { return events_; }
  // The work has returned; signals are as they were. After one that came meanwhile, ends the
  // process by it, as whoever waits for it expects; of work that failed, it says "interrupted:
  // WHAT" before.
  void finish(bool succeeded, std::string_view what);

 private:
  void begin();

  FILE* out_;
  std::string before_;
  std::optional<Interruption> interruption_;
  LayerLines lines_;
  LayerEvents events_;
};

}  // namespace vmm::engine::cli
