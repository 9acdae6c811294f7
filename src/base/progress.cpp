#include "src/base/progress.h"

namespace vmm {
namespace {

class NoProgress : public Progress {
 public:
  void begin(const char* /*phase*/, std::uint64_t /*total*/) override {}
  Result<void> advance(std::uint64_t /*bytes*/) override { return {}; }
};

}  // namespace

Progress& Progress::none() {
  static NoProgress unwatched;
  return unwatched;
}

void JobProgress::begin(const char* phase, std::uint64_t total) {
  std::lock_guard lock(mutex_);
  state_ = {.phase = phase, .total = total};
}

Result<void> JobProgress::advance(std::uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    state_.done += bytes;
  }
  if (is_cancelled()) return std::unexpected(Error("cancelled", kCancelled));
  return {};
}

JobProgress::State JobProgress::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

}  // namespace vmm
