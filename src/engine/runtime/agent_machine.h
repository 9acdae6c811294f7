// Requests to the agent about its machine, one a connection: blocking, for commands.
//
//   const auto usage = TRY(ask_agent<agent::Usage>(directory, agent::AskUsage{true}));
#pragma once

#include <string>

#include "src/base/result.h"
#include "src/protocol/agent.h"

namespace vmm::engine {

// The answer to an encoded request. Error: the machine ends, or does not answer.
Result<protocol::agent::Message> ask_agent_message(const std::string& directory,
                                                   const std::string& request);

template <typename Answer, typename Request>
Result<Answer> ask_agent(const std::string& directory, const Request& request) {
  const auto message = TRY(ask_agent_message(directory, protocol::agent::encode(request)));
  if (const auto failed = protocol::agent::decode<protocol::agent::Failed>(message)) {
    return fail("{}", failed->text);
  }
  return protocol::agent::decode<Answer>(message);
}

}  // namespace vmm::engine
