// 1. on_client(): what came is read, serve_lines() cuts it into requests.
// 2. A request is served here (version) or by the handler, which answers now or later.
// 3. Answers and events are appended to what is unsent; flush() hands that to the socket.
// 4. settle(): a client is read from while it reads what it is sent and may ask more; it is watched
//    for just what can go on, and dropped when nothing more can come of it.
#include "src/hypervisor/session/control_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <tuple>

namespace vmm {

Result<std::unique_ptr<ControlServer>> ControlServer::create(const std::string& path,
                                                             EventLoop& loop, Handler handler) {
  auto listener = UnixListener::create(path);
  if (!listener) return fail("control socket: {}", listener.error().message());
  std::unique_ptr<ControlServer> server(
      new ControlServer(std::move(*listener), loop, std::move(handler)));
  TRY(server->acceptor_.start());
  return server;
}

ControlServer::ControlServer(UnixListener listener, EventLoop& loop, Handler handler)
    : listener_(std::move(listener)),
      loop_(loop),
      acceptor_(loop, listener_.fd(), [this](UniqueFd socket) { take(std::move(socket)); }),
      handler_(std::move(handler)) {}

ControlServer::~ControlServer() {
  for (const auto& [id, client] : clients_) loop_.forget(client.socket.get());
}

void ControlServer::take(UniqueFd socket) {
  if (clients_.size() >= kMaxClients) make_room();
  const auto id = next_id_++;
  const auto watched = loop_.watch(socket.get(), EPOLLIN,
                                   [this, id](std::uint32_t events) { on_client(id, events); });
  if (!watched) return;
  auto& client = clients_[id];
  client.id = client.last_heard = id;
  client.socket = std::move(socket);
  on_client(id, EPOLLIN);  // who has asked already is not one that says nothing
}

// Who connects and says nothing does not keep others out.
void ControlServer::make_room() {
  const auto rank = [](const Client& client) {
    const bool waits = client.in_flight > client.passive;
    const bool listens = client.listening || client.passive > 0;
    return std::tuple(waits, listens, client.last_heard);
  };
  const auto least = std::ranges::min_element(
      clients_, [&](const auto& a, const auto& b) { return rank(a.second) < rank(b.second); });
  drop(least->first);
}

void ControlServer::on_client(std::uint64_t id, std::uint32_t events) {
  auto& client = clients_.at(id);
  client.last_heard = next_id_++;
  // One that is gone altogether may have left requests behind.
  const bool hung_up = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read(client);
  if (!serve_lines(client) || (hung_up && client.ended)) return drop(id);
  settle(id);
}

void ControlServer::read(Client& client) {
  std::array<char, 16384> chunk;
  const ssize_t n = ::read(client.socket.get(), chunk.data(), chunk.size());
  if (n > 0) {
    client.received.append(chunk.data(), static_cast<std::size_t>(n));
  } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
    client.ended = true;
  }
}

bool ControlServer::serve_lines(Client& client) {
  client.serving = true;
  std::size_t begin = 0;
  while (!client.in_order && client.unsent.size() < kSlowReader) {
    const auto end = client.received.find('\n', begin);
    if (end == std::string::npos) break;
    serve(client, std::string_view(client.received).substr(begin, end - begin));
    begin = end + 1;
  }
  client.received.erase(0, begin);
  client.serving = false;
  if (client.received.size() <= protocol::kMaxLine) return true;
  return client.received.find('\n') <= protocol::kMaxLine;
}

void ControlServer::serve(Client& client, std::string_view line) {
  const auto request = protocol::decode_request(line);
  Answer reply;
  reply.server_ = this;
  reply.client_ = client.id;
  reply.version_ = request.version;
  reply.id_ = request.id;
  reply.passive_ = request.command && std::holds_alternative<protocol::Wait>(*request.command);
  const bool too_many = client.in_flight >= kMaxInFlight;
  ++client.in_flight;
  if (reply.passive_) ++client.passive;
  client.in_order = request.version == 1;
  if (!request.command) return answer(reply, std::unexpected(request.command.error()));
  if (too_many) {
    return answer(reply, fail("{} requests of this connection are in flight: expected at most {}",
                              client.in_flight, kMaxInFlight));
  }
  if (std::holds_alternative<protocol::Version>(*request.command)) {
    return answer(reply,
                  protocol::to_json(protocol::VersionResult{
                      {protocol::kOldestControlVersion, protocol::kControlVersion}, VMM_VERSION}));
  }
  handler_(*request.command, request.version, reply);
}

void ControlServer::listen(const Answer& answer) {
  auto* client = find(answer);
  if (client != nullptr && !std::exchange(client->listening, true)) ++listeners_;
}

ControlServer::Client* ControlServer::find(const Answer& answer) {
  const auto it = clients_.find(answer.client_);
  return it == clients_.end() ? nullptr : &it->second;
}

void ControlServer::answer(const Answer& to, const Result<std::string>& result) {
  auto* client = find(to);
  if (client == nullptr) return;  // it went away
  protocol::Reply reply{.id = to.id_};
  if (result) {
    reply.result = *result;
  } else {
    reply.ok = false;
    reply.error = result.error().message();
  }
  client->unsent += protocol::encode(reply);
  --client->in_flight;
  if (to.passive_) --client->passive;
  if (to.version_ == 1) client->in_order = false;
  settle(to.client_);
}

void ControlServer::publish(const protocol::Event& event) {
  if (listeners_ == 0) return;
  const std::string line = protocol::encode(event);
  std::vector<std::uint64_t> told;
  for (auto& [id, client] : clients_) {
    if (!client.listening) continue;
    send_event(client, event, line);
    told.push_back(id);
  }
  for (const auto id : told) settle(id);
}

void ControlServer::send_event(Client& client, const protocol::Event& event,
                               const std::string& line) {
  // There is but one last event.
  const bool last = std::holds_alternative<protocol::Ended>(event);
  if (client.unsent.size() >= kSlowReader && !last) {
    ++client.missed;
    return;
  }
  tell_missed(client);
  client.unsent += line;
}

void ControlServer::tell_missed(Client& client) {
  if (client.missed == 0) return;
  client.unsent += protocol::encode(protocol::Missed{std::exchange(client.missed, 0)});
}

bool ControlServer::flush(Client& client) {
  std::size_t sent = 0;
  while (sent < client.unsent.size()) {
    const ssize_t n = ::send(client.socket.get(), client.unsent.data() + sent,
                             client.unsent.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return false;
    if (n < 0) break;
    sent += static_cast<std::size_t>(n);
  }
  client.unsent.erase(0, sent);
  return true;
}

void ControlServer::settle(std::uint64_t id) {
  const auto it = clients_.find(id);
  if (it == clients_.end() || it->second.serving) return;
  auto& client = it->second;
  for (bool more = true; more;) {
    if (!flush(client) || client.unsent.size() > kMaxUnsent) return drop(id);
    const bool has_room = client.unsent.size() < kSlowReader;
    more = has_room && client.missed > 0;
    if (more) tell_missed(client);
    // What waited for room, or for an answer.
    if (has_room && !client.in_order && client.received.contains('\n')) {
      if (!serve_lines(client)) return drop(id);
      more = true;
    }
  }
  const bool goes_on = client.in_flight > 0 || client.listening || !client.unsent.empty();
  if (client.ended && !goes_on) return drop(id);
  const bool reads = !client.ended && !client.in_order && client.unsent.size() < kSlowReader;
  const std::uint32_t wanted = (reads ? EPOLLIN : 0u) | (client.unsent.empty() ? 0u : EPOLLOUT);
  if (wanted == client.watched) return;
  client.watched = wanted;
  if (!loop_.modify(client.socket.get(), wanted)) drop(id);
}

void ControlServer::drop(std::uint64_t id) {
  const auto it = clients_.find(id);
  if (it == clients_.end()) return;
  if (it->second.listening) --listeners_;
  loop_.forget(it->second.socket.get());
  clients_.erase(it);
}

}  // namespace vmm
