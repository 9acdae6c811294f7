// LayerLines: what becomes of an image's layers, as Docker's users know it. On a terminal a line a
// layer, drawn again in its place, with a bar; elsewhere a line for each event.
//
//   c01d5d937a1f: Downloading [=======>                                           ]   1.2MB/8.1MB
//   3d24ee258efc: Pull complete
//
// The cursor stands below the lines, so that whatever ends the program leaves the terminal as it
// is.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/image/layer_events.h"

namespace vmm::engine::cli {

struct Screen {
  std::size_t columns = 80, rows = 24;
};

class LayerLines {
 public:
  // `screen` is asked before each line is drawn; none: it is not a terminal.
  LayerLines(std::function<void(std::string_view)> write,
             std::function<std::optional<Screen>()> screen,
             std::chrono::milliseconds redraw = std::chrono::milliseconds(100))
      : write_(std::move(write)), screen_(std::move(screen)), redraw_(redraw) {}

  // As in LayerEvents: not two at once.
  void tell(const Digest& layer, std::string_view what);
  void advance(const Digest& layer, std::string_view what, std::uint64_t done, std::uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  struct Line {
    std::size_t row = 0;  // from the first
    std::string what;
    Clock::time_point drawn;
  };
  Line& line_of(const std::string& id);
  void draw(const std::string& id, Line& line, const Screen& screen, std::string_view progress);

  std::function<void(std::string_view)> write_;
  std::function<std::optional<Screen>()> screen_;
  std::chrono::milliseconds redraw_;
  std::map<std::string, Line> lines_;
};

// "[====>      ]  1.2MB/3.4MB" in at most that many columns; without the bar where it has no room.
std::string layer_progress(std::uint64_t done, std::uint64_t total, std::size_t columns);

}  // namespace vmm::engine::cli
