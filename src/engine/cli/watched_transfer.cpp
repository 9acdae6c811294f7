#include "src/engine/cli/watched_transfer.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace vmm::engine::cli {
namespace {

// A terminal that can be drawn on, and is not somebody else's now.
bool can_draw_on(int fd) {
  const char* terminal = std::getenv("TERM");
  return ::isatty(fd) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb" &&
         ::tcgetpgrp(fd) == ::getpgrp();
}

Screen screen_of(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 || size.ws_row == 0) return {};
  return {size.ws_col, size.ws_row};
}

}  // namespace

WatchedTransfer::WatchedTransfer(FILE* out, std::string before)
    : out_(out),
      before_(std::move(before)),
      lines_(
          [out](std::string_view text) {
            fmt::print(out, "{}", text);
            std::fflush(out);
          },
          [out, draws = out != nullptr && can_draw_on(::fileno(out))]() -> std::optional<Screen> {
            if (!draws) return std::nullopt;
            return screen_of(::fileno(out));
          }) {
  events_.on_layer = [this](const Digest& layer, std::string_view what) {
    begin();
    if (out_ != nullptr) lines_.tell(layer, what);
  };
  events_.on_bytes = [this](const Digest& layer, std::string_view what, std::uint64_t done,
                            std::uint64_t total) {
    if (out_ != nullptr) lines_.advance(layer, what, done, total);
  };
  events_.is_cancelled = [] { return Interruption::has_come(); };
}

void WatchedTransfer::begin() {
  if (interruption_) return;
  interruption_.emplace();
  if (out_ != nullptr) fmt::print(out_, "{}", before_);
}

void WatchedTransfer::finish(bool succeeded, std::string_view what) {
  if (succeeded) begin();  // an image without layers
  if (interruption_) interruption_->finish_all(succeeded, what);
}

}  // namespace vmm::engine::cli
