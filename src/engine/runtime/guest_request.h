// What the agent of a container's machine is asked for, from the container's specification.
#pragma once

#include "src/engine/runtime/container.h"
#include "src/protocol/agent.h"

namespace vmm::engine {

protocol::agent::Configure configure_request(const Container& container);
protocol::agent::MountRoot mount_request(const Container& container);
// Error: an unknown capability.
Result<protocol::agent::Start> start_request(const Container& container);

// Why a program did not start, in the words that people look for, and Docker's exit code.
struct StartFailure {
  std::uint8_t code = 125;
  std::string text;
};
StartFailure explain(const protocol::agent::Failed& failed, const std::string& program);

}  // namespace vmm::engine
