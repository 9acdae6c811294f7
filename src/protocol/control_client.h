// ControlClient: a connection to the control socket of a machine. Blocks.
//
//   auto client = TRY(ControlClient::connect("/run/user/1000/vm"));
//   const auto job = TRY(client.call<JobResult>(Snapshot{.directory = "/snapshots/a"}));
//   TRY(client.call(Events{}));
//   while (...) use(TRY(client.next_event()));       // a line
#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/protocol/control.h"

namespace vmm::protocol {

class ControlClient {
 public:
  static Result<ControlClient> connect(const std::string& socket_path);

  // Sends a request and waits for its answer, JSON or empty; events that come first are kept.
  // Error: the answer's, or the machine is gone.
  Result<std::string> call(const Command& command);
  template <typename T>
  Result<T> call(const Command& command) {
    return from_json<T>(TRY(call(command)));
  }
  // Sends it, and does not wait. Returns its id.
  Result<std::uint64_t> ask(const Command& command);
  // The answer to that one, should it be the next but for events, which are kept.
  Result<std::string> answer(std::uint64_t id);
  // The next event, a line without its end.
  Result<std::string> next_event();

  int fd() const { return socket_.get(); }

  // Any line, for who looks at answers and events alike; and for what is not of version 2.
  Result<void> send(const std::string& line) const;
  Result<std::string> read_line();
  // None: none came in that time, or a signal did.
  Result<std::optional<std::string>> poll_line(std::chrono::milliseconds time);

 private:
  ControlClient(std::string path, UniqueFd socket)
      : path_(std::move(path)), socket_(std::move(socket)) {}

  // A line that is there.
  std::optional<std::string> take_line();
  Result<void> receive();

  std::string path_;
  UniqueFd socket_;
  std::string received_;
  std::deque<std::string> events_;
  std::uint64_t next_id_ = 1;
};

}  // namespace vmm::protocol
