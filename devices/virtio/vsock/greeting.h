// Greeting: the first line of a host's connection, "CONNECT <port>\n". Reads it and not a byte
// more: what follows is for the guest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/base/unique_fd.h"

namespace vmm::virtio::vsock {

class Greeting {
 public:
  explicit Greeting(UniqueFd socket) : socket_(std::move(socket)) {}

  enum class State : std::uint8_t { incomplete, wrong, complete };
  // Takes what has come; never waits.
  State read();
  // Once complete.
  std::uint32_t guest_port() const { return guest_port_; }
  UniqueFd take_socket() { return std::move(socket_); }

 private:
  State parse();
  UniqueFd socket_;
  std::string line_;
  std::uint32_t guest_port_ = 0;
};

}  // namespace vmm::virtio::vsock
