#include "src/engine/runtime/agent_machine.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "src/engine/runtime/agent_link.h"

namespace vmm::engine {
namespace {

namespace agent = protocol::agent;

Result<UniqueFd> open_connection(const std::string& directory, std::chrono::seconds patience) {
  const auto loop = TRY(EventLoop::create());
  Result<UniqueFd> opened = fail("the machine's agent does not answer");
  const AgentLink link(*loop, directory, agent::Header{agent::Kind::machine, {}},
                       [&](Result<UniqueFd> socket) {
                         opened = std::move(socket);
                         loop->stop();
                       });
  (void)loop->add_timer(EventLoop::Clock::now() + patience, [&] { loop->stop(); });
  loop->run();
  return opened;
}

}  // namespace

Result<agent::Message> ask_agent_message(const std::string& directory, const std::string& request,
                                         std::chrono::seconds patience) {
  const auto socket = TRY(open_connection(directory, patience));
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return fail_errno("cannot reach the agent");
  }
  agent::MessageReader reader;
  for (;;) {
    if (auto message = TRY(reader.next())) return std::move(*message);
    pollfd ready{socket.get(), POLLIN, 0};
    const int found = ::poll(&ready, 1, static_cast<int>(patience.count()) * 1000);
    if (found < 0 && errno == EINTR) continue;
    if (found <= 0) return fail("the machine's agent does not answer");
    std::array<char, 65536> bytes;
    const ssize_t n = ::recv(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return fail("the machine ended");
    reader.append({bytes.data(), static_cast<std::size_t>(n)});
  }
}

}  // namespace vmm::engine
