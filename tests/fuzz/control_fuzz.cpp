// Any line as a request, reply and event of the control socket; what is understood is said again.
#include <cstdlib>
#include <string_view>

#include "src/protocol/control.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  if (const auto request = protocol::decode_request(line); request.command) {
    const auto again = protocol::decode_request(
        protocol::encode_request(request.id.value_or(1), *request.command));
    if (!again.command || again.command->index() != request.command->index()) std::abort();
  }
  if (const auto event = protocol::decode_event(line)) {
    if (!protocol::decode_event(protocol::encode(*event))) std::abort();
  }
  if (const auto reply = protocol::decode_reply(line)) {
    if (!protocol::decode_reply(protocol::encode(*reply))) std::abort();
  }
  return 0;
}
