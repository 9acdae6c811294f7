#include "devices/virtio/vsock/greeting.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "src/base/text.h"

namespace vmm::virtio::vsock {
namespace {

constexpr std::string_view kWord = "CONNECT ";
constexpr std::size_t kLongest = 32;

}  // namespace

Greeting::State Greeting::read() {
  std::array<char, kLongest> bytes;
  const std::size_t room = kLongest - line_.size();
  const ssize_t n = ::recv(socket_.get(), bytes.data(), room, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return State::incomplete;
  if (n <= 0) return State::wrong;
  const std::string_view come(bytes.data(), static_cast<std::size_t>(n));
  const auto end = come.find('\n');
  const std::size_t taken = end == std::string_view::npos ? come.size() : end + 1;
  line_ += come.substr(0, taken);
  // They were there a moment ago.
  (void)::recv(socket_.get(), bytes.data(), taken, MSG_DONTWAIT);
  if (end != std::string_view::npos) return parse();
  return line_.size() < kLongest ? State::incomplete : State::wrong;
}

Greeting::State Greeting::parse() {
  const std::string_view line = std::string_view(line_).substr(0, line_.size() - 1);
  if (!line.starts_with(kWord)) return State::wrong;
  const auto port = parse_number(line.substr(kWord.size()), 0, UINT32_MAX - 1, "vsock port");
  if (!port) return State::wrong;
  guest_port_ = static_cast<std::uint32_t>(*port);
  return State::complete;
}

}  // namespace vmm::virtio::vsock
