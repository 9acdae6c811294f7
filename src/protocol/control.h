// The control socket of a machine: one JSON object a line, a request and its reply.
//
//   {"version": 1, "command": "balloon", "argument": "512M"}
//   {"version": 1, "command": "snapshot", "argument": "/snapshots/a", "options": {"live": "true"}}
//   {"ok": true, "result": {...}}      {"ok": false, "error": "..."}
//
// Requests of one connection are answered in their order. Unknown fields are ignored, so that
// newer clients may say more; an unknown command or version is an error reply.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::protocol {

inline constexpr unsigned kControlVersion = 1;
inline constexpr std::size_t kMaxLine = 64u << 10;  // bytes of one message

struct Request {
  std::string command;
  std::string argument;
  std::map<std::string, std::string> options;  // of the command; a switch that is on has "true"
};

struct Reply {
  bool ok = true;
  std::string result;  // JSON text; empty: none
  std::string error;   // when not ok
};

// Each encodes to one line, with its end.
std::string encode(const Request& request);
std::string encode(const Reply& reply);
Result<Request> decode_request(std::string_view line);
Result<Reply> decode_reply(std::string_view line);

// The client: connects, asks, waits for the answer. Error: no such socket, or the reply's.
Result<std::string> call(const std::string& socket_path, const Request& request);

}  // namespace vmm::protocol
