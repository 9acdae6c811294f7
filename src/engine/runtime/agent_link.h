// Connections to the agent of a container's machine, through the machine's vsock socket.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "src/base/unique_fd.h"
#include "src/base/watch.h"
#include "src/protocol/agent.h"

namespace vmm::engine {

// Opens one connection: the monitor's greeting, the agent's header. Calls `opened` once, unless it
// is destroyed before (not in `opened`: post that). Error: nobody listens yet, or the agent
// refuses.
class AgentLink {
 public:
  using Opened = std::function<void(Result<UniqueFd>)>;

  AgentLink(EventLoop& loop, const std::string& directory, const protocol::agent::Header& header,
            Opened opened);

 private:
  void turn();
  Result<bool> read_line();
  Result<bool> read_header();
  Result<bool> step();
  void finish(Result<UniqueFd> result);

  EventLoop& loop_;
  Opened opened_;
  protocol::agent::Header header_;
  UniqueFd socket_;
  std::string line_;
  bool greeted_ = false;
  std::size_t received_ = 0;
  protocol::agent::HeaderBytes bytes_{};
  std::unique_ptr<Watch> watch_;
  std::shared_ptr<void> alive_ = std::make_shared<char>();  // for what is posted
};

protocol::agent::ProcessId new_process_id();

}  // namespace vmm::engine
