#include "src/engine/runtime/agent_link.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <random>
#include <span>

#include "src/base/unix_socket.h"

namespace vmm::engine {

using protocol::agent::Header;
using protocol::agent::Kind;

AgentLink::AgentLink(EventLoop& loop, const std::string& directory, const Header& header,
                     Opened opened)
    : loop_(loop), opened_(std::move(opened)), header_(header) {
  auto socket = connect_unix(directory + "/vsock");
  if (!socket) {
    loop_.post([this, alive = std::weak_ptr<void>(alive_), error = socket.error()] {
      if (!alive.expired()) finish(std::unexpected(error));
    });
    return;
  }
  socket_ = std::move(*socket);
  // All at once: the monitor leaves to the guest what follows its line.
  const auto bytes = protocol::agent::encode(header);
  const auto text =
      fmt::format("CONNECT {}\n{}", protocol::agent::kAgentPort,
                  std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  (void)::fcntl(socket_.get(), F_SETFL, O_NONBLOCK);
  // It fits into any socket's buffer; a peer that is gone is seen at the first read.
  (void)!::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
  watch_ = std::make_unique<Watch>(loop_, socket_.get(), [this](std::uint32_t) { turn(); });
  watch_->want(EPOLLIN);
}

void AgentLink::finish(Result<UniqueFd> result) {
  watch_.reset();
  opened_(std::move(result));
}

void AgentLink::turn() {
  const auto done = step();
  if (!done) return finish(std::unexpected(done.error()));
  if (!*done) return;
  watch_.reset();  // the descriptor is its next owner's
  finish(std::move(socket_));
}

Result<bool> AgentLink::step() {
  if (!greeted_ && !TRY(read_line())) return false;
  greeted_ = true;
  return read_header();
}

Result<bool> AgentLink::read_line() {
  constexpr std::size_t kLongest = 64;
  while (line_.size() < kLongest) {
    char byte = 0;
    const ssize_t n = ::recv(socket_.get(), &byte, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n < 0) return fail_errno("cannot reach the agent");
    if (n == 0) return fail("nobody listens at the agent's port");
    if (byte == '\n') break;
    line_ += byte;
  }
  if (!line_.starts_with("OK ")) return fail("the machine's vsock says '{}'", line_);
  return true;
}

Result<bool> AgentLink::read_header() {
  while (received_ < bytes_.size()) {
    const auto left = std::span(bytes_).subspan(received_);
    const ssize_t n = ::recv(socket_.get(), left.data(), left.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n < 0) return fail_errno("cannot reach the agent");
    if (n == 0) return fail("the agent closed the connection");
    received_ += static_cast<std::size_t>(n);
  }
  const auto answer = TRY(protocol::agent::decode_header(bytes_));
  if (answer.kind != header_.kind) return fail("the agent refused the connection");
  return true;
}

protocol::agent::ProcessId new_process_id() {
  std::random_device random;
  protocol::agent::ProcessId id;
  for (std::byte& byte : id) byte = static_cast<std::byte>(random());
  return id;
}

}  // namespace vmm::engine
