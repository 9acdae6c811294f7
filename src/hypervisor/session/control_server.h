// ControlServer: the machine's control socket. Requests are served on the loop's thread; those of
// one client one after the other, even when an answer comes later. A client that sends garbage, too
// much, or nothing more is dropped.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/unix_socket.h"
#include "src/protocol/control.h"

namespace vmm {

class ControlServer {
 public:
  // Called once, on the loop's thread, at once or later. The result is JSON, or empty.
  using Answer = std::function<void(Result<std::string>)>;
  using Handler = std::function<void(const protocol::Request&, Answer)>;

  static Result<std::unique_ptr<ControlServer>> create(const std::string& path, EventLoop& loop,
                                                       Handler handler);
  ~ControlServer();

 private:
  struct Client {
    std::uint64_t id = 0;  // descriptors are used again
    UniqueFd socket;
    std::string received;
    bool waiting = false;  // for an answer
    bool ended = false;    // it sends nothing more
  };
  ControlServer(UnixListener listener, EventLoop& loop, Handler handler);
  void accept();
  void read(int fd);
  // Serves the lines that are there, until one has to wait. False: the client is to be dropped.
  bool serve_lines(Client& client);
  void serve(Client& client, const std::string& line);
  void answer(int fd, std::uint64_t id, const Result<std::string>& result);
  void drop(int fd);

  UnixListener listener_;
  EventLoop& loop_;
  const Handler handler_;
  std::unordered_map<int, Client> clients_;
  std::uint64_t next_id_ = 1;
  bool serving_ = false;  // in serve_lines(): what is answered at once need not go on by itself
};

}  // namespace vmm
