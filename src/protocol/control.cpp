#include "src/protocol/control.h"

#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include <array>

#include "src/base/unix_socket.h"

namespace vmm::protocol {
namespace {

using nlohmann::json;

Result<json> parse_object(std::string_view line) {
  json message = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!message.is_object()) return fail("not a JSON object: '{}'", line.substr(0, 100));
  return message;
}

// A text field, or "" when it is not there.
Result<std::string> text_of(const json& message, const char* key) {
  const auto it = message.find(key);
  if (it == message.end()) return std::string();
  if (!it->is_string()) return fail("'{}' is to be a text, not {}", key, it->dump());
  return it->get<std::string>();
}

}  // namespace

std::string encode(const Request& request) {
  json message = {{"version", kControlVersion}, {"command", request.command}};
  if (!request.argument.empty()) message["argument"] = request.argument;
  for (const auto& [name, value] : request.options) message["options"][name] = value;
  return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string encode(const Reply& reply) {
  json message = {{"ok", reply.ok}};
  if (!reply.result.empty()) message["result"] = json::parse(reply.result, nullptr, false);
  if (!reply.ok) message["error"] = reply.error;
  return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<Request> decode_request(std::string_view line) {
  const auto message = TRY(parse_object(line));
  if (const auto version = message.find("version");
      version != message.end() && *version != kControlVersion) {
    return fail("version {} of the control protocol is not spoken here, {} is", version->dump(),
                kControlVersion);
  }
  Request request{TRY(text_of(message, "command")), TRY(text_of(message, "argument")), {}};
  if (const auto options = message.find("options"); options != message.end()) {
    if (!options->is_object()) return fail("'options' is to be an object, not {}", options->dump());
    for (const auto& [name, value] : options->items()) {
      request.options[name] = TRY(text_of(*options, name.c_str()));
    }
  }
  if (request.command.empty()) return fail("the request has no command");
  return request;
}

Result<Reply> decode_reply(std::string_view line) {
  const auto message = TRY(parse_object(line));
  const auto ok = message.find("ok");
  if (ok == message.end() || !ok->is_boolean())
    return fail("the reply does not say whether it is ok");
  Reply reply{ok->get<bool>(), "", TRY(text_of(message, "error"))};
  if (const auto result = message.find("result"); result != message.end()) {
    reply.result = result->dump();
  }
  return reply;
}

Result<std::string> call(const std::string& socket_path, const Request& request) {
  const auto socket = TRY(connect_unix(socket_path));
  const std::string message = encode(request);
  TRY(write_all(socket.get(), std::as_bytes(std::span(message))));
  std::string line;
  std::array<char, 4096> chunk;
  while (!line.ends_with('\n')) {
    const ssize_t n = ::read(socket.get(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("no answer from '{}'", socket_path);
    if (n == 0) return fail("no answer from '{}': the machine is gone", socket_path);
    line.append(chunk.data(), static_cast<std::size_t>(n));
    if (line.size() > 16 * kMaxLine) return fail("the answer from '{}' does not end", socket_path);
  }
  auto reply = TRY(decode_reply(line));
  if (!reply.ok) return fail("{}", reply.error);
  return std::move(reply.result);
}

}  // namespace vmm::protocol
