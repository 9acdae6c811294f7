// UserNetwork: a network without privilege: DHCP, DNS, NAT and published ports, in a process of its
// own (src/user_net/) that this object starts, and ends with itself.
//
//   auto network = TRY(UserNetwork::spawn(config));
//   ...                                             // the process sets itself up meanwhile
//   TRY(network->wait_ready());                     // "cannot publish tcp port 8080 of ...: ..."
//
// The process may not listen anew: ports that are published while it runs are opened here, and
// their sockets handed over.
//
// A process that dies is replaced by reopen(), with the same ports published; its connections are
// lost. A guest can bring it down again and again, so the wait before doubles each time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/backend/net/name_servers.h"
#include "devices/backend/net/socket_backend.h"
#include "src/base/child.h"
#include "src/user_net/config.h"

namespace vmm::net {

class UserNetwork : public SocketBackend {
 public:
  static Result<std::unique_ptr<UserNetwork>> spawn(
      const user_net::Config& config, const std::string& resolv_conf = "/etc/resolv.conf");
  ~UserNetwork() override;

  Result<void> start(std::uint64_t features) override;
  // The host's name servers have changed, perhaps.
  int notice_fd() const override { return names_.fd(); }
  void take_notice() override;

  std::vector<std::string> ports() const override;
  Result<std::unique_ptr<PortChange>> prepare_ports(
      const std::vector<user_net::HostForward>& wanted) override;

  pid_t process() const { return process_ ? process_->id() : 0; }

  static constexpr auto kFirstRetry = std::chrono::milliseconds(100);
  static constexpr auto kLastRetry = std::chrono::seconds(30);
  std::optional<std::chrono::milliseconds> retry_delay() override;
  Result<void> reopen() override;

  // Where the program is: $VMM_LIBEXEC, beside this program, in ../libexec/vmm, or in the build
  // tree that this program is in.
  static Result<std::string> find_program();

 private:
  class OpenPorts;
  struct Started {
    UniqueFd socket, ports;
    Child process;
  };
  static Result<Started> start_process(const user_net::Config& config);
  UserNetwork(user_net::Config config, const std::string& resolv_conf, Started started);
  Result<void> tell_names() const;
  void closed() override;
  // Asks the process; its error, and `gone` when there is none that answers.
  enum class Asked : std::uint8_t { done, gone };
  Result<Asked> ask(const user_net::HostForward& port, int socket) const;

  user_net::Config config_;
  NameServers names_;
  UniqueFd ports_;                // requests for the process
  std::optional<Child> process_;  // empty: it has ended
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::chrono::milliseconds next_retry_ = kFirstRetry;
};

}  // namespace vmm::net
