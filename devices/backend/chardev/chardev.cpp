#include "devices/backend/chardev/chardev.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <system_error>

namespace vmm::chardev {
namespace {

using Clock = EventLoop::Clock;

constexpr auto kPatience = std::chrono::milliseconds(100);
constexpr std::size_t kPipeChunk = 4096;  // POLLOUT promises room for this much (pipe(7))
// Of an input that ended: clients of a socket come and go, and the guest need not read.
constexpr std::size_t kMostWaiting = 1 << 20;

}  // namespace

void Chardev::set_receiver(Receiver receiver) {
  loop_.call([&] {
    receiver_ = std::move(receiver);
    offer();
  });
}

void Chardev::resume_input() {
  loop_.post([this] { offer(); });
}

void Chardev::write(std::span<const std::byte> bytes) {
  std::lock_guard lock(output_mutex_);
  const auto deadline = Clock::now() + kPatience;
  while (!bytes.empty() && output_ >= 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd ready{output_, POLLOUT, 0};
    const int n = ::poll(&ready, 1, stalled_ ? 0 : std::max(0, static_cast<int>(left.count())));
    if (n < 0 && errno == EINTR) continue;
    stalled_ = n == 0;
    if ((ready.revents & POLLOUT) == 0) return;
    const ssize_t written = put(output_, bytes.first(std::min(bytes.size(), kPipeChunk)));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return lost(errno);
    losing_ = false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

ssize_t Chardev::put(int output, std::span<const std::byte> bytes) {
  if (!socket_) return ::write(output, bytes.data(), bytes.size());
  return ::send(output, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Chardev::lost(int error) {
  if (error == EAGAIN) stalled_ = true;  // it had room for less than this
  if (error == EAGAIN || error == EPIPE || error == ECONNRESET || error == EIO) return;
  if (std::exchange(losing_, true)) return;
  log::warn_limited(limit_, "cannot write to {}: {}; what the guest prints is lost", name(),
                    std::generic_category().message(error));
}

void Chardev::attach(int input, int output) {
  input_ = input;
  {
    std::lock_guard lock(output_mutex_);
    struct stat status{};
    socket_ = ::fstat(output, &status) == 0 && S_ISSOCK(status.st_mode);
    output_ = output;
    stalled_ = false;
  }
  offer();
}

void Chardev::detach() {
  watch_input(false);
  input_ = -1;
  std::lock_guard lock(output_mutex_);
  output_ = -1;
}

void Chardev::watch_input(bool on) {
  if (on == watching_ || input_ < 0) return;
  if (!on) {
    if (reading_) loop_.cancel_timer(*std::exchange(reading_, std::nullopt));
    loop_.forget(input_);
  } else if (const auto watched =
                 loop_.watch(input_, EPOLLIN, [this](std::uint32_t) { read_input(); });
             !watched) {
    // Regular files and /dev/null: there always is something to read, or the end.
    if (watched.error().code() != EPERM) return;
    reading_ = loop_.add_timer(Clock::now(), [this] {
      reading_.reset();
      watching_ = false;
      read_input();
    });
  }
  watching_ = on;
}

void Chardev::read_input() {
  std::array<std::byte, 1024> chunk;
  const ssize_t n = ::read(input_, chunk.data(), chunk.size());
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return watch_input(true);
  if (n <= 0) {
    watch_input(false);
    input_ = -1;
    on_end_of_input();
    return;
  }
  add_input(std::span(chunk).first(static_cast<std::size_t>(n)));
  offer();
}

void Chardev::drain_input() {
  std::array<std::byte, 1024> chunk;
  while (waiting_.size() < kMostWaiting) {
    const ssize_t n = ::read(input_, chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    add_input(std::span(chunk).first(static_cast<std::size_t>(n)));
  }
  log::warn_limited(limit_, "input of {} is lost: the guest did not read {} bytes before it",
                    name(), waiting_.size());
}

void Chardev::add_input(std::span<std::byte> bytes) {
  const auto kept = bytes.first(filter_input(bytes));
  waiting_.insert(waiting_.end(), kept.begin(), kept.end());
}

void Chardev::offer() {
  if (!waiting_.empty() && receiver_) {
    const std::size_t taken = receiver_(waiting_);
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(taken));
  }
  // What does not fit waits in the kernel, where it slows its sender.
  watch_input(waiting_.empty());
}

UniqueFd own_output(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) < 0) return {};
  if (!S_ISFIFO(status.st_mode) && !(S_ISCHR(status.st_mode) && ::isatty(fd) != 0)) return {};
  // O_NONBLOCK is of the open file, which others write to as well: it takes one of our own.
  auto own = open_file(fmt::format("/proc/self/fd/{}", fd), O_WRONLY | O_NONBLOCK | O_NOCTTY);
  return own ? std::move(*own) : UniqueFd();
}

std::size_t Chardev::filter_input(std::span<std::byte> bytes) { return bytes.size(); }

}  // namespace vmm::chardev
