// Requests to the agent about its machine, one a connection: blocking, for commands.
//
//   const auto usage = TRY(ask_agent<agent::Usage>(directory, agent::AskUsage{true}));
#pragma once

#include <chrono>
#include <string>

#include "src/base/result.h"
#include "src/protocol/agent.h"

namespace vmm::engine {

inline constexpr std::chrono::seconds kAgentPatience{60};

// The answer to an encoded request. Error: the machine ends, or does not answer in `patience`: once
// for the connection, once for the request.
Result<protocol::agent::Message> ask_agent_message(const std::string& directory,
                                                   const std::string& request,
                                                   std::chrono::seconds patience = kAgentPatience);

template <typename Answer, typename Request>
Result<Answer> ask_agent(const std::string& directory, const Request& request,
                         std::chrono::seconds patience = kAgentPatience) {
  const auto message =
      TRY(ask_agent_message(directory, protocol::agent::encode(request), patience));
  if (const auto failed = protocol::agent::decode<protocol::agent::Failed>(message)) {
    return fail("{}", failed->text);
  }
  return protocol::agent::decode<Answer>(message);
}

}  // namespace vmm::engine
