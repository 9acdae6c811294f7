#include "src/protocol/control_client.h"

#include <poll.h>

#include <array>

#include "src/base/unix_socket.h"

namespace vmm::protocol {
namespace {

constexpr std::size_t kMaxAnswer = 16 * kMaxLine;
constexpr std::size_t kMaxEvents = 4096;  // kept while an answer is waited for

}  // namespace

Result<ControlClient> ControlClient::connect(const std::string& socket_path) {
  return ControlClient(socket_path, TRY(connect_unix(socket_path)));
}

Result<void> ControlClient::send(const std::string& line) const {
  return write_all(socket_.get(), std::as_bytes(std::span(line)));
}

std::optional<std::string> ControlClient::take_line() {
  const auto end = received_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::string line = received_.substr(0, end);
  received_.erase(0, end + 1);
  return line;
}

Result<void> ControlClient::receive() {
  if (received_.size() > kMaxAnswer) return fail("the answer from '{}' does not end", path_);
  std::array<char, 16384> chunk;
  const ssize_t n = ::read(socket_.get(), chunk.data(), chunk.size());
  if (n < 0 && errno == EINTR) return {};
  if (n < 0) return fail_errno("no answer from '{}'", path_);
  if (n == 0) return fail("no answer from '{}': the machine is gone", path_);
  received_.append(chunk.data(), static_cast<std::size_t>(n));
  return {};
}

Result<std::string> ControlClient::read_line() {
  for (;;) {
    if (auto line = take_line()) return std::move(*line);
    TRY(receive());
  }
}

Result<std::optional<std::string>> ControlClient::poll_line(std::chrono::milliseconds time) {
  if (auto line = take_line()) return line;
  pollfd waiting{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&waiting, 1, static_cast<int>(time.count())) > 0) TRY(receive());
  return take_line();
}

Result<std::uint64_t> ControlClient::ask(const Command& command) {
  TRY(send(encode_request(next_id_, command)));
  return next_id_++;
}

Result<std::string> ControlClient::answer(std::uint64_t id) {
  for (;;) {
    auto line = TRY(read_line());
    if (is_event(line)) {
      if (events_.size() == kMaxEvents) return fail("'{}' answers with events alone", path_);
      events_.push_back(std::move(line));
      continue;
    }
    auto reply = TRY(decode_reply(line));
    // Without an id: the machine speaks version 1 alone, and its error says so.
    if (reply.id && *reply.id != id) continue;
    if (!reply.ok) return fail("{}", reply.error);
    return std::move(reply.result);
  }
}

Result<std::string> ControlClient::call(const Command& command) {
  return answer(TRY(ask(command)));
}

Result<std::string> ControlClient::next_event() {
  if (!events_.empty()) {
    auto event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  for (;;) {
    auto line = TRY(read_line());
    if (is_event(line)) return line;
  }
}

}  // namespace vmm::protocol
