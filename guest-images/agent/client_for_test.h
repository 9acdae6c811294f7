// The host's side of the agent, for tests: blocking, each wait bounded by kPatience.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/unique_fd.h"
#include "src/base/unix_socket.h"
#include "src/protocol/agent.h"

namespace vmm::agent::test {

namespace agent = protocol::agent;

inline constexpr int kPatience = 30;  // seconds; a guest on an emulated host is slow

// One connection; with `is_vsock` through the socket by which a monitor offers a guest's vsock.
class Connection {
 public:
  Connection(const std::string& path, bool is_vsock) {
    auto connected = connect_unix(path);
    EXPECT_TRUE(connected) << connected.error().message();
    if (!connected) return;
    fd_ = std::move(*connected);
    const timeval patience{kPatience, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (!is_vsock) return;
    send(fmt::format("CONNECT {}\n", agent::kAgentPort));
    std::string line;
    while (!line.ends_with('\n')) {
      char byte = 0;
      if (::recv(fd_.get(), &byte, 1, 0) != 1) break;
      line += byte;
    }
    EXPECT_TRUE(line.starts_with("OK ")) << line;
  }

  // Sends the header; what the agent says to it.
  agent::Kind greet(agent::Kind kind, const agent::ProcessId& process) {
    const auto bytes = agent::encode(agent::Header{kind, process});
    send({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    agent::HeaderBytes answer{};
    if (::recv(fd_.get(), answer.data(), answer.size(), MSG_WAITALL) !=
        static_cast<ssize_t>(answer.size())) {
      return agent::Kind::refused;
    }
    const auto header = agent::decode_header(answer);
    return header ? header->kind : agent::Kind::refused;
  }

  // False: the peer is gone.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  template <typename T>
  bool say(const T& message) {
    return send(agent::encode(message));
  }
  // The next message; type 0 at the end.
  agent::Message hear() {
    for (;;) {
      auto message = reader_.next();
      EXPECT_TRUE(message) << message.error().message();
      if (message && *message) return **message;
      const std::string bytes = read_some();
      if (bytes.empty()) return {};
      reader_.append(bytes);
    }
  }
  template <typename T>
  T expect() {
    const agent::Message message = hear();
    if (message.type == agent::Failed::kType && T::kType != agent::Failed::kType) {
      ADD_FAILURE() << protocol::decode_fields<agent::Failed>(message.fields)->text;
      return {};
    }
    auto decoded = agent::decode<T>(message);
    EXPECT_TRUE(decoded) << decoded.error().message();
    return decoded ? *decoded : T{};
  }

  std::string read_some() {
    std::string bytes(65536, '\0');
    const ssize_t n = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
    EXPECT_TRUE(n >= 0 || errno == ECONNRESET) << "nothing comes: " << std::strerror(errno);
    bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return bytes;
  }
  std::string read_all() {
    std::string all;
    for (std::string some = read_some(); !some.empty(); some = read_some()) all += some;
    return all;
  }
  std::string read_until(std::string_view end) {
    std::string all;
    while (!all.contains(end)) {
      const std::string some = read_some();
      if (some.empty()) break;
      all += some;
    }
    EXPECT_TRUE(all.contains(end)) << all;
    return all;
  }
  void end_output() { ::shutdown(fd_.get(), SHUT_WR); }
  bool is_silent(int milliseconds) const {
    pollfd wait{fd_.get(), POLLIN, 0};
    return ::poll(&wait, 1, milliseconds) == 0;
  }

 private:
  UniqueFd fd_;
  agent::MessageReader reader_;
};

inline agent::ProcessId new_process_id() {
  static std::mt19937 random{std::random_device{}()};
  agent::ProcessId id;
  for (std::byte& byte : id) byte = static_cast<std::byte>(random());
  return id;
}

}  // namespace vmm::agent::test
