// What the commands say to a container's supervisor, and hear of it: messages as of
// protocol/agent.h, over the socket `supervisor` in the container's directory. Every connection
// hears Started or Failed (at once, if that was before) and, at the very end, Exited.
#pragma once

#include <span>
#include <string_view>

#include "src/protocol/agent.h"

namespace vmm::engine::wire {

using protocol::agent::TerminalSize;

// ---- to the supervisor

// From now on, outputs come, and what this connection sends is the container's input.
struct Attach {
  static constexpr std::uint8_t kType = 1;
  bool input = false, output = false, error = false;
  static void fields(auto& message, auto& archive) {
    archive(1, message.input);
    archive(2, message.output);
    archive(3, message.error);
  }
};

struct Input {
  static constexpr std::uint8_t kType = 2;
  protocol::Bytes bytes;
  static void fields(auto& message, auto& archive) { archive(1, message.bytes); }
};

struct InputEnd {
  static constexpr std::uint8_t kType = 3;
  static void fields(auto&, auto&) {}
};

struct Resize {
  static constexpr std::uint8_t kType = 4;
  TerminalSize size;
  static void fields(auto& message, auto& archive) { archive(1, message.size); }
};

struct Signal {
  static constexpr std::uint8_t kType = 5;
  std::uint8_t number = 0;
  static void fields(auto& message, auto& archive) { archive(1, message.number); }
};

// The signal, and SIGKILL when the process has not ended by then.
struct Stop {
  static constexpr std::uint8_t kType = 6;
  std::uint8_t number = 0;
  std::optional<std::uint32_t> seconds;  // none: for ever
  static void fields(auto& message, auto& archive) {
    archive(1, message.number);
    archive(2, message.seconds);
  }
};

// ---- from the supervisor

struct Started {
  static constexpr std::uint8_t kType = 65;
  static void fields(auto&, auto&) {}
};

struct Failed {
  static constexpr std::uint8_t kType = 66;
  std::uint8_t code = 0;  // 125, 126, 127
  std::string text;
  static void fields(auto& message, auto& archive) {
    archive(1, message.code);
    archive(2, message.text);
  }
};

enum class Stream : std::uint8_t { output = 1, error = 2, last = error };

struct Output {
  static constexpr std::uint8_t kType = 67;
  Stream stream = Stream::output;
  protocol::Bytes bytes;
  static void fields(auto& message, auto& archive) {
    archive(1, message.stream);
    archive(2, message.bytes);
  }
};

// The container is stopped, and removed if that was wanted.
struct Exited {
  static constexpr std::uint8_t kType = 68;
  std::uint8_t code = 0;
  static void fields(auto& message, auto& archive) { archive(1, message.code); }
};

// A sentence for the person, before Started.
struct Notice {
  static constexpr std::uint8_t kType = 69;
  std::string text;
  static void fields(auto& message, auto& archive) { archive(1, message.text); }
};

inline protocol::Bytes to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}
inline std::string_view to_view(const protocol::Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace vmm::engine::wire
