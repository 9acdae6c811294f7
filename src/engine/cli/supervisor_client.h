// SupervisorClient: a command's connection to the supervisor of a container.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "src/engine/cli/foreground.h"
#include "src/engine/runtime/channel.h"
#include "src/engine/runtime/container.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine::cli {

// How what was followed went on. `lost`: the supervisor was killed.
struct Outcome {
  enum class Kind : std::uint8_t { started, failed, exited, detached, lost };
  Kind kind = Kind::lost;
  int code = 0;
  std::string text;  // of failed
};

// The socket of a running container's supervisor. Error: nobody listens.
Result<UniqueFd> connect_to_supervisor(const std::string& directory);

// Until the process is started, or has failed to.
Result<Outcome> wait_for_start(UniqueFd socket);
// Until the container is stopped; none after `milliseconds`, unless that is negative.
Result<std::optional<Outcome>> wait_for_exit(UniqueFd socket, int milliseconds);
// The same, but asks for something before.
template <typename T>
Result<std::optional<Outcome>> ask(UniqueFd socket, const T& request, int milliseconds) {
  const auto bytes = protocol::agent::encode(request);
  TRY(write_all(socket.get(), std::as_bytes(std::span(bytes))));
  return wait_for_exit(std::move(socket), milliseconds);
}

struct AttachOptions {
  wire::Attach streams;
  bool tty = false;
  bool pass_signals = true;
  DetachKeys keys;
};
// Attached to it until its end, or until the person detaches.
Result<Outcome> stay_attached(UniqueFd socket, AttachOptions options);

}  // namespace vmm::engine::cli
