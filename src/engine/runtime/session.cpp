#include "src/engine/runtime/session.h"

namespace vmm::engine {

Session::Session(EventLoop& loop, UniqueFd socket, Owner owner)
    : owner_(std::move(owner)),
      channel_(loop, std::move(socket),
               {[this](const protocol::agent::Message& message) { owner_.message(*this, message); },
                [this] { owner_.closed(*this); }, [this] { owner_.writable(); }}) {}

void Session::output(wire::Stream stream, std::string_view bytes) {
  const bool wanted = stream == wire::Stream::output ? attached_.output : attached_.error;
  if (wanted) channel_.send(wire::Output{stream, wire::to_bytes(bytes)});
}

}  // namespace vmm::engine
