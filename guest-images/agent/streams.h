// The bytes between a process and the connections of its streams. Each pump holds one buffer and
// stops reading while it is full: a slow reader holds up its own process, and nothing else.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include "src/base/event_loop.h"
#include "src/base/unique_fd.h"
#include "src/base/watch.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

inline constexpr std::size_t kPumpBuffer = 64u << 10;

// From a pipe or terminal of a process to a connection. A later connection takes over.
class OutputPump {
 public:
  // `source` is non-blocking. `drained` is called once, when the last byte and the end were handed
  // to the connection, or are not wanted any more.
  OutputPump(EventLoop& loop, UniqueFd source, protocol::agent::LostOutput lost,
             std::function<void()> drained);

  void attach(UniqueFd connection);
  // The process has ended: what it left is the rest, even if others hold its pipe.
  void finish();
  bool drained() const { return drained_; }
  std::uint64_t moved() const { return moved_; }  // bytes that were handed to a connection
  bool is_untaken() const;                        // whether there are bytes that nobody takes

 private:
  void turn();
  bool fill();
  bool flush();
  void update();

  EventLoop& loop_;
  UniqueFd source_;
  UniqueFd connection_;
  const protocol::agent::LostOutput lost_;
  const std::function<void()> on_drained_;
  std::optional<Watch> source_watch_;
  std::optional<Watch> connection_watch_;
  std::vector<char> buffer_ = std::vector<char>(kPumpBuffer);
  std::size_t begin_ = 0, end_ = 0;  // of what is in the buffer
  std::optional<std::size_t> left_;  // bytes to read at most, once the process has ended
  std::uint64_t moved_ = 0;
  bool dropping_ = false;
  bool drained_ = false;
};

// From a connection to the pipe or terminal of a process.
class InputPump {
 public:
  // At the end of a connection: the process's input ends, or waits for the next connection.
  enum class AtEnd : std::uint8_t { ends, waits };

  InputPump(EventLoop& loop, UniqueFd target, AtEnd at_end);
  void attach(UniqueFd connection);
  void finish();                                  // the process has ended
  std::uint64_t moved() const { return moved_; }  // bytes that the process was given

 private:
  void turn();
  void update();

  EventLoop& loop_;
  UniqueFd target_;
  UniqueFd connection_;
  const AtEnd at_end_;
  std::optional<Watch> target_watch_;
  std::optional<Watch> connection_watch_;
  std::vector<char> buffer_ = std::vector<char>(kPumpBuffer);
  std::size_t begin_ = 0, end_ = 0;
  std::uint64_t moved_ = 0;
};

}  // namespace vmm::agent
