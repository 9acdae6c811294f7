#include "src/hypervisor/session/control_server.h"

#include <array>
#include <cerrno>

#include "src/base/log.h"

namespace vmm {
namespace {

constexpr std::size_t kMaxClients = 64;

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::create(const std::string& path,
                                                             EventLoop& loop, Handler handler) {
  auto listener = UnixListener::create(path);
  if (!listener) return fail("control socket: {}", listener.error().message());
  std::unique_ptr<ControlServer> server(
      new ControlServer(std::move(*listener), loop, std::move(handler)));
  TRY(loop.watch(server->listener_.fd(), EPOLLIN,
                 [raw = server.get()](std::uint32_t) { raw->accept(); }));
  return server;
}

ControlServer::ControlServer(UnixListener listener, EventLoop& loop, Handler handler)
    : listener_(std::move(listener)), loop_(loop), handler_(std::move(handler)) {}

ControlServer::~ControlServer() {
  for (const auto& [fd, client] : clients_) loop_.forget(fd);
  loop_.forget(listener_.fd());
}

void ControlServer::accept() {
  auto socket = listener_.accept();
  if (!socket || clients_.size() == kMaxClients) return;
  const int fd = socket.get();
  if (!loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { read(fd); })) return;
  auto& client = clients_[fd];
  client.id = next_id_++;
  client.socket = std::move(socket);
}

void ControlServer::read(int fd) {
  auto& client = clients_.at(fd);
  std::array<char, 4096> chunk;
  const ssize_t n = ::read(fd, chunk.data(), chunk.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    client.ended = true;
    loop_.forget(fd);
    if (!client.waiting) drop(fd);
    return;
  }
  client.received.append(chunk.data(), static_cast<std::size_t>(n));
  if (!serve_lines(client)) drop(fd);
}

bool ControlServer::serve_lines(Client& client) {
  const int fd = client.socket.get();
  const std::uint64_t id = client.id;
  serving_ = true;
  while (!client.waiting) {
    const auto end = client.received.find('\n');
    if (end == std::string::npos) break;
    const std::string line = client.received.substr(0, end);
    client.received.erase(0, end + 1);
    client.waiting = true;
    serve(client, line);
    // Dropped, when it did not take its answer.
    const auto it = clients_.find(fd);
    if (it == clients_.end() || it->second.id != id) {
      serving_ = false;
      return true;
    }
  }
  serving_ = false;
  return client.received.size() <= protocol::kMaxLine && (client.waiting || !client.ended);
}

void ControlServer::serve(Client& client, const std::string& line) {
  const auto request = protocol::decode_request(line);
  if (!request) {
    answer(client.socket.get(), client.id, std::unexpected(request.error()));
    return;
  }
  handler_(*request, [this, fd = client.socket.get(), id = client.id](Result<std::string> result) {
    answer(fd, id, result);
  });
}

void ControlServer::answer(int fd, std::uint64_t id, const Result<std::string>& result) {
  const auto it = clients_.find(fd);
  if (it == clients_.end() || it->second.id != id) return;  // it went away
  auto& client = it->second;
  protocol::Reply reply;
  if (result) {
    reply.result = *result;
  } else {
    reply = {false, "", result.error().message()};
  }
  client.waiting = false;
  // Replies are small: a client that does not read them is dropped rather than waited for.
  const std::string text = protocol::encode(reply);
  if (!write_all(fd, std::as_bytes(std::span(text)))) {
    drop(fd);
  } else if (!serving_ && !serve_lines(client)) {
    drop(fd);
  }
}

void ControlServer::drop(int fd) {
  loop_.forget(fd);
  clients_.erase(fd);
}

}  // namespace vmm
