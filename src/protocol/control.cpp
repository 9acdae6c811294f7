#include "src/protocol/control.h"

#include <chrono>
#include <utility>

#include "src/base/json.h"
#include "src/protocol/control_v1.h"
#include "src/protocol/json_fields.h"

namespace vmm::protocol {
namespace {

using nlohmann::json;

std::string to_line(const json& message) {
  return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<json> parse_object(std::string_view line) {
  auto message = parse_json(line);
  if (!message) {
    return fail("not a JSON object: '{}': {}", line.substr(0, 100), message.error().message());
  }
  if (!message->is_object()) return fail("not a JSON object: '{}'", line.substr(0, 100));
  return message;
}

template <typename T>
json fields_of(const T& message) {
  JsonWriter writer;
  T::fields(message, writer);
  return std::move(writer.object);
}

template <typename T>
Result<T> read_fields(const json& object, std::string_view what, JsonReader::Others others) {
  T message;
  JsonReader reader(object);
  T::fields(message, reader);
  TRY(reader.result(what, others));
  return message;
}

// The alternative of the variant that has the name, by `read`; none: nobody has it.
template <typename Variant, typename Read>
std::optional<Result<Variant>> read_named(std::string_view name, Read read) {
  std::optional<Result<Variant>> found;
  const auto attempt = [&]<typename T>(std::in_place_type_t<T>) {
    if (T::kName != name) return;
    auto message = read(std::in_place_type<T>);
    if (message) {
      found = Variant(std::move(*message));
    } else {
      found = std::unexpected(message.error());
    }
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (attempt(std::in_place_type<std::variant_alternative_t<I, Variant>>), ...);
  }(std::make_index_sequence<std::variant_size_v<Variant>>());
  return found;
}

template <typename Variant>
std::vector<std::string_view> names_in() {
  std::vector<std::string_view> names;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (names.push_back(std::variant_alternative_t<I, Variant>::kName), ...);
  }(std::make_index_sequence<std::variant_size_v<Variant>>());
  return names;
}

Result<void> check_arguments(const Command& command) {
  if (const auto* snapshot = std::get_if<Snapshot>(&command)) {
    if (snapshot->directory.empty()) return fail("snapshot takes a directory");
  }
  return std::visit(
      []<typename T>(const T& typed) -> Result<void> {
        if constexpr (requires { typed.attachment; }) {
          if (typed.attachment.text.empty()) return fail("{} takes an attachment", T::kName);
        }
        if constexpr (requires { typed.component; }) {
          if (typed.component.empty()) return fail("{} takes a component", T::kName);
        }
        if constexpr (requires { typed.ports; }) {
          if (typed.ports.empty()) return fail("{} takes ports", T::kName);
        }
        return {};
      },
      command);
}

Result<Command> decode_command(const json& message) {
  const auto name = message.find("command");
  if (name == message.end()) return fail("the request has no command");
  if (!name->is_string()) return fail("'command' is to be a text, not {}", name->dump());
  const auto text = name->get<std::string>();
  json arguments = json::object();
  if (const auto it = message.find("arguments"); it != message.end()) arguments = *it;
  if (!arguments.is_object()) {
    return fail("'arguments' is to be an object, not {}", arguments.dump());
  }
  auto command = read_named<Command>(text, [&]<typename T>(std::in_place_type_t<T>) {
    return read_fields<T>(arguments, T::kName, JsonReader::Others::refused);
  });
  if (!command)
    return fail("unknown command '{}'{}", text, did_you_mean(text, names_in<Command>()));
  if (*command) TRY(check_arguments(**command));
  return std::move(*command);
}

}  // namespace

std::string_view name_of(const Command& command) {
  return std::visit([]<typename T>(const T&) { return T::kName; }, command);
}

std::string encode_request(std::uint64_t id, const Command& command) {
  json message = {{"version", kControlVersion}, {"id", id}, {"command", name_of(command)}};
  auto arguments = std::visit([](const auto& typed) { return fields_of(typed); }, command);
  if (!arguments.empty()) message["arguments"] = std::move(arguments);
  return to_line(message);
}

std::string encode(const Reply& reply) {
  json message = {{"ok", reply.ok}};
  if (reply.id) message["id"] = *reply.id;
  if (!reply.result.empty()) message["result"] = parse_json(reply.result).value_or(json());
  if (!reply.ok) message["error"] = reply.error;
  return to_line(message);
}

std::string encode(const Event& event) {
  auto message = std::visit(
      []<typename T>(const T& typed) {
        auto object = fields_of(typed);
        object["event"] = T::kName;
        return object;
      },
      event);
  message["time_ms"] = std::chrono::duration_cast<std::chrono::milliseconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count();
  return to_line(message);
}

Request decode_request(std::string_view line) {
  Request request{.version = kOldestControlVersion, .id = {}, .command = Status{}};
  const auto message = parse_object(line);
  if (!message) {
    request.command = std::unexpected(message.error());
    return request;
  }
  const auto version = message->find("version");
  if (version == message->end() || *version == kOldestControlVersion) {
    request.command = decode_v1(*message);
    return request;
  }
  const auto id = message->find("id");
  if (id != message->end() && id->is_number_unsigned()) request.id = id->get<std::uint64_t>();
  if (*version != kControlVersion) {
    request.command = fail("version {} of the control protocol is not spoken here, {} and {} are",
                           version->dump(), kOldestControlVersion, kControlVersion);
    return request;
  }
  request.version = kControlVersion;
  if (request.id) {
    request.command = decode_command(*message);
  } else {
    request.command = fail("the request has no id, or one that is not a whole number from 0");
  }
  return request;
}

Result<Reply> decode_reply(std::string_view line) {
  const auto message = TRY(parse_object(line));
  const auto ok = message.find("ok");
  if (ok == message.end() || !ok->is_boolean())
    return fail("the reply does not say whether it is ok");
  Reply reply{.id = {}, .ok = ok->get<bool>(), .result = "", .error = ""};
  if (const auto id = message.find("id"); id != message.end() && id->is_number_unsigned()) {
    reply.id = id->get<std::uint64_t>();
  }
  if (const auto error = message.find("error"); error != message.end()) {
    if (!error->is_string()) return fail("'error' is to be a text, not {}", error->dump());
    reply.error = error->get<std::string>();
  }
  if (const auto result = message.find("result"); result != message.end()) {
    reply.result = result->dump();
  }
  return reply;
}

bool is_event(std::string_view line) {
  const auto message = parse_json(line);
  return message && message->is_object() && message->contains("event");
}

Result<Event> decode_event(std::string_view line) {
  const auto message = TRY(parse_object(line));
  const auto name = message.find("event");
  if (name == message.end() || !name->is_string()) return fail("not an event: '{}'", line);
  auto event =
      read_named<Event>(name->get<std::string>(), [&]<typename T>(std::in_place_type_t<T>) {
        return read_fields<T>(message, T::kName, JsonReader::Others::ignored);
      });
  if (!event) return fail("unknown event '{}'", name->get<std::string>());
  return std::move(*event);
}

template <typename T>
std::string to_json(const T& result) {
  return fields_of(result).dump(-1, ' ', false, json::error_handler_t::replace);
}

template <typename T>
Result<T> from_json(std::string_view text) {
  return read_fields<T>(TRY(parse_object(text)), "the answer", JsonReader::Others::ignored);
}

template std::string to_json(const VersionResult&);
template std::string to_json(const JobResult&);
template std::string to_json(const JobList&);
template std::string to_json(const Saved&);
template std::string to_json(const Ended&);
template Result<VersionResult> from_json(std::string_view);
template Result<JobResult> from_json(std::string_view);
template Result<JobList> from_json(std::string_view);
template Result<Saved> from_json(std::string_view);
template Result<Ended> from_json(std::string_view);

}  // namespace vmm::protocol
