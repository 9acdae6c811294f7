#include "src/protocol/control_v1.h"

#include <nlohmann/json.hpp>

#include <array>

#include "src/base/text.h"
#include "src/protocol/control_client.h"

namespace vmm::protocol {
namespace {

using nlohmann::json;

// A text field, or "" when it is not there.
Result<std::string> text_of(const json& message, const char* key) {
  const auto it = message.find(key);
  if (it == message.end()) return std::string();
  if (!it->is_string()) return fail("'{}' is to be a text, not {}", key, it->dump());
  return it->get<std::string>();
}

// Of an option that is a switch.
Result<bool> parse_switch(std::string_view name, std::string_view value) {
  if (value == "true") return true;
  if (value == "false") return false;
  return fail("option '{}' is true or false, not '{}'", name, value);
}

Result<Command> to_snapshot(const RequestV1& request) {
  Snapshot snapshot{.directory = request.argument};
  constexpr std::array<std::string_view, 3> kOptions = {"incremental", "live", "stop"};
  for (const auto& [name, value] : request.options) {
    if (name == "incremental") {
      snapshot.parent = value;
    } else if (name == "live") {
      snapshot.live = TRY(parse_switch(name, value));
    } else if (name == "stop") {
      snapshot.stop = TRY(parse_switch(name, value));
    } else {
      return fail("snapshot has no option '{}'{}", name, did_you_mean(name, kOptions));
    }
  }
  if (snapshot.directory.empty()) return fail("snapshot takes a directory");
  return snapshot;
}

Result<Command> to_command(const RequestV1& request) {
  const std::string_view name = request.command;
  if (name == Status::kName) return Status{};
  if (name == Metrics::kName) return Metrics{};
  if (name == Pause::kName) return Pause{};
  if (name == Resume::kName) return Resume{};
  if (name == PowerButton::kName) return PowerButton{};
  if (name == Stop::kName) return Stop{};
  if (name == Balloon::kName) return Balloon{request.argument};
  if (name == Snapshot::kName) return to_snapshot(request);
  constexpr std::array<std::string_view, 8> kCommands = {
      "pause", "resume", "stop", "power-button", "status", "balloon", "metrics", "snapshot"};
  return fail("unknown command '{}'{}", request.command, did_you_mean(request.command, kCommands));
}

}  // namespace

std::string encode(const RequestV1& request) {
  json message = {{"version", 1}, {"command", request.command}};
  if (!request.argument.empty()) message["argument"] = request.argument;
  for (const auto& [name, value] : request.options) message["options"][name] = value;
  return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<Command> decode_v1(const json& message) {
  RequestV1 request{TRY(text_of(message, "command")), TRY(text_of(message, "argument")), {}};
  if (const auto options = message.find("options"); options != message.end()) {
    if (!options->is_object()) return fail("'options' is to be an object, not {}", options->dump());
    for (const auto& [name, value] : options->items()) {
      request.options[name] =
          value.is_boolean() ? value.dump() : TRY(text_of(*options, name.c_str()));
    }
  }
  if (request.command.empty()) return fail("the request has no command");
  return to_command(request);
}

Result<std::string> call(const std::string& socket_path, const RequestV1& request) {
  auto client = TRY(ControlClient::connect(socket_path));
  TRY(client.send(encode(request)));
  auto reply = TRY(decode_reply(TRY(client.read_line())));
  if (!reply.ok) return fail("{}", reply.error);
  return std::move(reply.result);
}

}  // namespace vmm::protocol
