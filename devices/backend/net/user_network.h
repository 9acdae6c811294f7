// UserNetwork: a network without privilege: DHCP, DNS, NAT and published ports, in a process of its
// own (src/user_net/) that this object starts, and ends with itself.
//
//   auto network = TRY(UserNetwork::spawn(config));
//   ...                                             // the process sets itself up meanwhile
//   TRY(network->wait_ready());                     // "cannot publish tcp port 8080 of ...: ..."
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "devices/backend/net/socket_backend.h"
#include "src/user_net/config.h"

namespace vmm::net {

class UserNetwork : public SocketBackend {
 public:
  static Result<std::unique_ptr<UserNetwork>> spawn(const user_net::Config& config);
  ~UserNetwork() override;

  pid_t process() const { return process_; }

  // Where the program is: $VMM_LIBEXEC, beside this program, in ../libexec/vmm, or in the build
  // tree that this program is in.
  static Result<std::string> find_program();

 private:
  UserNetwork(UniqueFd socket, pid_t process);
  void closed() override;

  pid_t process_;  // 0: reaped
};

}  // namespace vmm::net
