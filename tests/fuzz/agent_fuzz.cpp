// Any bytes as a header and messages of the guest agent; what is understood is said again.
#include <algorithm>
#include <cstdlib>

#include "src/protocol/agent.h"

namespace {

using namespace vmm;
using namespace vmm::protocol;

template <typename T>
void round_trip(const agent::Message& message) {
  const auto first = agent::decode<T>({T::kType, message.fields});
  if (!first) return;
  const std::string said = encode_fields(*first);
  const auto again = decode_fields<T>(said);
  if (!again || encode_fields(*again) != said) std::abort();
}

template <typename... T>
void round_trips(const agent::Message& message) {
  (round_trip<T>(message), ...);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  agent::HeaderBytes header{};
  std::copy_n(reinterpret_cast<const std::byte*>(data), std::min(size, header.size()),
              header.begin());
  (void)agent::decode_header(header);
  agent::MessageReader reader;
  reader.append({reinterpret_cast<const char*>(data), size});
  while (const auto message = reader.next()) {
    if (!*message) break;
    round_trips<agent::Start, agent::Resize, agent::Signal, agent::Started, agent::Failed,
                agent::Exited, agent::Welcome, agent::Configure, agent::MountRoot,
                agent::MountShare, agent::AskUsage, agent::Usage, agent::Freeze, agent::PowerOff>(
        **message);
  }
  return 0;
}
