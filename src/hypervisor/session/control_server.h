// ControlServer: the machine's control socket. All of it runs on the loop's thread, and never waits
// for a client.
//
//   auto server = TRY(ControlServer::create(path, loop, [&](const protocol::Command& command,
//                                                           unsigned version,
//                                                           const ControlServer::Answer& answer) {
//     answer(...);                                // at once, or later
//   }));
//   server->publish(protocol::Paused{});          // to those who asked for events
//
// Requests of version 2 are answered as they are done; of version 1 one after the other. Each thing
// that a client can make grow has a bound: see the constants.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "src/base/acceptor.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/unix_socket.h"
#include "src/protocol/control.h"

namespace vmm {

class ControlServer {
 public:
  // Where there are more, the one that was silent longest makes room, those first that wait for
  // nothing, then those that only listen.
  static constexpr std::size_t kMaxClients = 64;
  // Of one client; a further one is refused.
  static constexpr std::size_t kMaxInFlight = 64;
  // Bytes that a client has not read yet: with more, its requests wait, and events are dropped and
  // counted ("missed").
  static constexpr std::size_t kSlowReader = 64u << 10;
  // With more, it is dropped.
  static constexpr std::size_t kMaxUnsent = 1u << 20;

  // The way back to who asked. To be called once, on the loop's thread; the result is JSON, or
  // empty.
  class Answer {
   public:
    void operator()(const Result<std::string>& result) const { server_->answer(*this, result); }
    // Whether the client is still there.
    bool is_wanted() const { return server_->find(*this) != nullptr; }

   private:
    friend class ControlServer;
    ControlServer* server_ = nullptr;
    std::uint64_t client_ = 0;
    unsigned version_ = 0;
    std::optional<std::uint64_t> id_;
    bool passive_ = false;
  };
  using Handler =
      std::function<void(const protocol::Command&, unsigned version, const Answer& answer)>;

  static Result<std::unique_ptr<ControlServer>> create(const std::string& path, EventLoop& loop,
                                                       Handler handler);
  ~ControlServer();

  // From now on events go to whoever that answer is for.
  void listen(const Answer& answer);
  void publish(const protocol::Event& event);
  // Whether anybody asked for events.
  bool has_listeners() const { return listeners_ > 0; }

 private:
  struct Client {
    std::uint64_t id = 0;
    std::uint64_t last_heard = 0;  // grows with time
    UniqueFd socket;
    std::string received;
    std::string unsent;
    std::size_t in_flight = 0;  // requests without an answer
    std::size_t passive = 0;    // of these: they wait for what others do
    std::uint64_t missed = 0;   // events since the last that was sent
    std::uint32_t watched = EPOLLIN;
    bool in_order = false;   // a request of version 1 has no answer yet: nothing more is read
    bool listening = false;  // to events
    bool ended = false;      // it sends nothing more
    bool serving = false;    // in serve_lines(): what is answered at once is sent after it
  };
  ControlServer(UnixListener listener, EventLoop& loop, Handler handler);
  void take(UniqueFd socket);
  void make_room();
  void on_client(std::uint64_t id, std::uint32_t events);
  void read(Client& client);
  // Serves the lines that are there, as far as may be. False: the client is to be dropped. It is
  // not dropped meanwhile; others may be, and may be served.
  bool serve_lines(Client& client);
  void serve(Client& client, std::string_view line);
  Client* find(const Answer& answer);
  void answer(const Answer& answer, const Result<std::string>& result);
  void send_event(Client& client, const protocol::Event& event, const std::string& line);
  // What the socket takes; false: it is gone.
  bool flush(Client& client);
  void tell_missed(Client& client);
  // After anything was done with a client: what is left to do and to wait for, or its end.
  void settle(std::uint64_t id);
  void drop(std::uint64_t id);

  UnixListener listener_;
  EventLoop& loop_;
  Acceptor acceptor_;
  const Handler handler_;
  std::unordered_map<std::uint64_t, Client> clients_;  // by id: descriptors are used again
  std::uint64_t next_id_ = 1;
  std::size_t listeners_ = 0;
};

}  // namespace vmm
