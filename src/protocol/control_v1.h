// Version 1 of the control protocol, which older clients speak:
//
//   {"version": 1, "command": "balloon", "argument": "512M"}
//   {"version": 1, "command": "snapshot", "argument": "/snapshots/a", "options": {"live": true}}
//   {"ok": true, "result": {...}}      {"ok": false, "error": "..."}
//
// Requests of one connection are answered in their order, a snapshot when it is made. Unknown
// fields are ignored.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "src/base/json.h"
#include "src/base/result.h"
#include "src/protocol/control.h"

namespace vmm::protocol {

struct RequestV1 {
  std::string command;
  std::string argument;
  std::map<std::string, std::string> options;  // of the command; a switch is "true" or "false"
};

// One line, with its end.
std::string encode(const RequestV1& request);
// Of a line that is a JSON object.
Result<Command> decode_v1(const nlohmann::json& message);

// The client: connects, asks, waits for the answer. Error: no such socket, or the reply's.
Result<std::string> call(const std::string& socket_path, const RequestV1& request);

}  // namespace vmm::protocol
