#include "devices/backend/chardev/chardev.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace vmm::chardev {
namespace {

constexpr int kPatienceMs = 100;
constexpr std::size_t kPipeChunk = 4096;  // POLLOUT promises room for this much (pipe(7))

}  // namespace

void Chardev::set_receiver(Receiver receiver) {
  receiver_ = std::move(receiver);
  offer();
}

void Chardev::resume_input() {
  loop_.post([this] { offer(); });
}

void Chardev::write(std::span<const std::byte> bytes) {
  std::lock_guard lock(output_mutex_);
  while (!bytes.empty() && output_ >= 0) {
    pollfd ready{output_, POLLOUT, 0};
    if (::poll(&ready, 1, kPatienceMs) <= 0 || (ready.revents & POLLOUT) == 0) return;
    const ssize_t n = ::write(output_, bytes.data(), std::min(bytes.size(), kPipeChunk));
    if (n < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void Chardev::attach(int input, int output) {
  input_ = input;
  {
    std::lock_guard lock(output_mutex_);
    output_ = output;
  }
  if (input_ >= 0) watch_input(true);
}

void Chardev::detach() {
  watch_input(false);
  input_ = -1;
  waiting_.clear();
  std::lock_guard lock(output_mutex_);
  output_ = -1;
}

void Chardev::watch_input(bool on) {
  if (on == watching_ || input_ < 0) return;
  if (on) {
    // epoll refuses regular files and /dev/null: no input then, as from a closed one.
    if (!loop_.watch(input_, EPOLLIN, [this](std::uint32_t) { read_input(); })) return;
  } else {
    loop_.forget(input_);
  }
  watching_ = on;
}

void Chardev::read_input() {
  std::array<std::byte, 1024> chunk;
  const ssize_t n = ::read(input_, chunk.data(), chunk.size());
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n <= 0) {
    watch_input(false);
    on_end_of_input();
    return;
  }
  const std::size_t kept = filter_input(std::span(chunk).first(static_cast<std::size_t>(n)));
  waiting_.insert(waiting_.end(), chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(kept));
  offer();
}

void Chardev::offer() {
  if (!waiting_.empty() && receiver_) {
    const std::size_t taken = receiver_(waiting_);
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(taken));
  }
  // What does not fit waits in the kernel, where it slows its sender.
  watch_input(waiting_.empty());
}

std::size_t Chardev::filter_input(std::span<std::byte> bytes) { return bytes.size(); }

}  // namespace vmm::chardev
