// Ports: the ports of the host that reach the guest. libslirp opens those that are known at the
// start. While the network runs, the machine opens one and hands its socket over (wire.h): this
// process may not listen anew.
//
//   Ports ports(std::move(requests), count);
//   TRY(ports.open(slirp, forward));            // before the process is confined
//   ...                                         // ports.fd() can be read:
//   if (!ports.serve(slirp)) ...                // the machine is gone
#pragma once

#include <cstddef>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/user_net/config.h"
#include "src/user_net/wire.h"

struct Slirp;

namespace vmm::user_net {

class Ports {
 public:
  // `requests`: of the machine.
  explicit Ports(UniqueFd requests) : requests_(std::move(requests)) {}

  Result<void> open(Slirp* slirp, const HostForward& forward);
  int fd() const { return requests_.get(); }
  // One request, and its answer. False: nobody asks any more.
  bool serve(Slirp* slirp);
  // Whether there has been one of UDP.
  bool published_udp() const { return published_udp_; }

 private:
  Result<void> change(Slirp* slirp, const PortMessage& message, int socket);

  UniqueFd requests_;
  std::size_t count_ = 0;  // of ports that are published
  bool published_udp_ = false;
};

}  // namespace vmm::user_net
