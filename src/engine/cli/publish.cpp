// -p: ports of a container that the host offers.
#include <arpa/inet.h>

#include "src/base/text.h"
#include "src/engine/cli/run_options.h"

namespace vmm::engine::cli {
namespace {

struct Range {
  std::uint16_t first = 0, last = 0;
};

Result<Range> parse_range(std::string_view text, std::string_view what) {
  const auto dash = text.find('-');
  const auto number = [&](std::string_view part) { return parse_number(part, 1, 65535, what); };
  const auto first = number(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : number(text.substr(dash + 1));
  if (!first || !last || *last < *first) return fail("invalid {}: {}", what, text);
  return Range{static_cast<std::uint16_t>(*first), static_cast<std::uint16_t>(*last)};
}

bool is_address(const std::string& text) {
  in6_addr address{};
  return ::inet_pton(AF_INET, text.c_str(), &address) == 1 ||
         ::inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

}  // namespace

Result<std::vector<PublishedPort>> parse_publish(std::string_view text) {
  auto left = text;
  PublishedPort port;
  if (const auto slash = left.find('/'); slash != std::string_view::npos) {
    port.protocol = left.substr(slash + 1);
    left = left.substr(0, slash);
    if (port.protocol != "tcp" && port.protocol != "udp") {
      return fail("invalid proto '{}' of '{}': expected tcp or udp", port.protocol, text);
    }
  }
  const auto colon = left.rfind(':');
  const auto container = TRY(parse_range(left.substr(colon + 1), "containerPort"));
  left = colon == std::string_view::npos ? std::string_view() : left.substr(0, colon);
  auto host_text = left;
  if (const auto before = left.rfind(':'); before != std::string_view::npos) {
    host_text = left.substr(before + 1);
    port.host_address = left.substr(0, before);
    if (port.host_address.starts_with('[') && port.host_address.ends_with(']')) {
      port.host_address = port.host_address.substr(1, port.host_address.size() - 2);
    }
    if (!is_address(port.host_address)) return fail("invalid IP address: {}", port.host_address);
  }
  Range host;
  if (!host_text.empty()) host = TRY(parse_range(host_text, "hostPort"));
  if (host.first != 0 && host.last - host.first != container.last - container.first) {
    return fail("invalid ranges specified for container and host Ports: {}", text);
  }
  std::vector<PublishedPort> ports;
  for (int i = 0; i <= container.last - container.first; ++i) {
    port.container_port = static_cast<std::uint16_t>(container.first + i);
    port.host_port =
        host.first == 0 ? std::uint16_t{0} : static_cast<std::uint16_t>(host.first + i);
    ports.push_back(port);
  }
  return ports;
}

std::string to_text(const PublishedPort& port) {
  auto address = port.host_address.empty() ? "0.0.0.0" : port.host_address;
  if (address.contains(':')) address = fmt::format("[{}]", address);
  return fmt::format("{}:{}->{}/{}", address, port.host_port, port.container_port, port.protocol);
}

}  // namespace vmm::engine::cli
