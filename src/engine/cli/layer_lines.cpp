#include "src/engine/cli/layer_lines.h"

#include <algorithm>

#include "src/engine/cli/units.h"

namespace vmm::engine::cli {

std::string layer_progress(std::uint64_t done, std::uint64_t total, std::size_t columns) {
  constexpr int kDigits = 4;
  constexpr std::size_t kMostCells = 50, kLeastCells = 10;
  done = std::min(done, total);
  const auto counts =
      fmt::format("{:>8}/{}", human_size(done, kDigits), human_size(total, kDigits));
  const auto others = counts.size() + std::string_view("[>] ").size();
  if (total == 0 || columns < others + kLeastCells) return counts;
  const auto cells = std::min(kMostCells, columns - others);
  const auto full = static_cast<std::size_t>(
      static_cast<double>(done) / static_cast<double>(total) * static_cast<double>(cells));
  return fmt::format("[{}>{}] {}", std::string(full, '='), std::string(cells - full, ' '), counts);
}

LayerLines::Line& LayerLines::line_of(const std::string& id) {
  const auto [found, is_new] = lines_.try_emplace(id);
  if (is_new) {
    found->second.row = lines_.size() - 1;
    write_("\n");
  }
  return found->second;
}

void LayerLines::tell(const Digest& layer, std::string_view what) {
  const auto id = layer.short_hex();
  const auto screen = screen_();
  if (!screen) return write_(fmt::format("{}: {}\n", id, what));
  auto& line = line_of(id);
  line.what = what;
  draw(id, line, *screen, {});
}

void LayerLines::advance(const Digest& layer, std::string_view what, std::uint64_t done,
                         std::uint64_t total) {
  const auto screen = screen_();
  if (!screen) return;
  const auto id = layer.short_hex();
  auto& line = line_of(id);
  const auto now = Clock::now();
  // What comes within the time of one picture is in the next one; the last is always drawn.
  if (line.what == what && done < total && now - line.drawn < redraw_) return;
  line.what = what;
  line.drawn = now;
  const auto before = id.size() + what.size() + std::string_view(":  ").size();
  // The last column stays free: a terminal may begin a line with it.
  const auto room = screen->columns > before ? screen->columns - before - 1 : 0;
  draw(id, line, *screen, layer_progress(done, total, room));
}

void LayerLines::draw(const std::string& id, Line& line, const Screen& screen,
                      std::string_view progress) {
  const auto up = lines_.size() - line.row;
  if (up >= screen.rows) return;  // it has left the screen
  auto text = fmt::format("{}: {}", id, line.what);
  if (!progress.empty()) text += fmt::format(" {}", progress);
  text.resize(std::min(text.size(), std::max<std::size_t>(screen.columns, 1) - 1));
  write_(fmt::format("\x1b[{0}A\r\x1b[2K{1}\r\x1b[{0}B", up, text));
}

}  // namespace vmm::engine::cli
