#include "src/engine/runtime/guest_request.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "src/engine/runtime/monitor.h"

namespace vmm::engine {

namespace agent = protocol::agent;

namespace {

constexpr std::size_t kSeedSize = 64;

bool has_network(const ContainerSpec& spec) { return spec.network != "none"; }

std::string hosts_of(const ContainerSpec& spec) {
  std::string text =
      "127.0.0.1\tlocalhost\n"
      "::1\tlocalhost ip6-localhost ip6-loopback\n"
      "fe00::\tip6-localnet\n"
      "ff00::\tip6-mcastprefix\n"
      "ff02::1\tip6-allnodes\n"
      "ff02::2\tip6-allrouters\n";
  for (const auto& host : spec.extra_hosts) {
    const auto colon = host.find(':');
    auto address = host.substr(colon + 1);
    if (address == "host-gateway") address = kGatewayAddress;
    text += fmt::format("{}\t{}\n", address, host.substr(0, colon));
  }
  if (has_network(spec)) text += fmt::format("{}\t{}\n", kMachineAddress, spec.host_name);
  return text;
}

std::string resolv_conf_of(const ContainerSpec& spec) {
  std::string text;
  if (!spec.search_domains.empty()) {
    text += fmt::format("search {}\n", fmt::join(spec.search_domains, " "));
  }
  for (const auto& server : spec.name_servers) text += fmt::format("nameserver {}\n", server);
  if (spec.name_servers.empty() && has_network(spec)) {
    text += fmt::format("nameserver {}\n", kNameServerAddress);
  }
  return text;
}

}  // namespace

agent::Configure configure_request(const Container& container) {
  const auto& spec = container.spec;
  agent::Configure request;
  request.host_name = spec.host_name;
  request.clock = static_cast<std::uint64_t>(now_in_nanoseconds());
  std::random_device random;
  for (std::size_t i = 0; i < kSeedSize; ++i) {
    request.seed.push_back(static_cast<std::byte>(random()));
  }
  request.hosts = hosts_of(spec);
  request.resolv_conf = resolv_conf_of(spec);
  if (has_network(spec)) {
    agent::Interface interface;
    interface.name = "eth0";
    interface.addresses = {fmt::format("{}/24", kMachineAddress)};
    interface.routes = {agent::Route{"", kGatewayAddress}};
    request.interfaces.push_back(std::move(interface));
  }
  return request;
}

agent::MountRoot mount_request(const Container& container) {
  agent::MountRoot request;
  request.image = "/dev/vda";
  request.writable = "/dev/vdb";
  if (container.spec.mapped_image) {
    request.image = "/dev/pmem0";
    request.image_options = "dax=always";
  }
  return request;
}

Result<agent::Start> start_request(const Container& container) {
  const auto& spec = container.spec;
  agent::Start start;
  start.arguments = spec.arguments();
  start.environment = spec.environment;
  const auto is_set = [&spec](std::string_view name) {
    return std::ranges::any_of(spec.environment,
                               [name](const auto& one) { return one.starts_with(name); });
  };
  if (!is_set("HOSTNAME=")) start.environment.push_back("HOSTNAME=" + spec.host_name);
  if (spec.tty && !is_set("TERM=")) start.environment.push_back("TERM=xterm");
  start.working_directory = spec.working_directory;
  start.user = spec.user;
  start.groups = spec.groups;
  if (spec.tty) start.terminal.emplace();
  start.input = spec.open_input && !spec.tty;
  start.capabilities = TRY(capabilities_of(spec));
  start.limits = spec.limits;
  auto& surroundings = start.container.emplace();
  const auto dot = spec.host_name.find('.');
  surroundings.host_name = spec.host_name;
  if (dot != std::string::npos) surroundings.domain_name = spec.host_name.substr(dot + 1);
  for (const auto& mount : spec.tmpfs) {
    surroundings.mounts.push_back(
        {agent::Mount::Type::tmpfs, "", mount.target, mount.options, false});
  }
  surroundings.sysctls = spec.sysctls;
  surroundings.read_only_root = spec.read_only;
  surroundings.mask_paths = !spec.privileged;
  surroundings.init = spec.init;
  surroundings.shm_size = spec.shm_size;
  if (spec.memory > 0) surroundings.memory_limit = spec.memory;
  if (spec.process_limit > 0) surroundings.process_limit = spec.process_limit;
  if (spec.cpu_limit > 0) surroundings.cpu_limit = spec.cpu_limit;
  return start;
}

StartFailure explain(const agent::Failed& failed, const std::string& program) {
  using Reason = agent::Failed::Reason;
  if (failed.reason == Reason::setup) {
    return {125, fmt::format("unable to start container process: {}", failed.text)};
  }
  std::string why = "executable file not found in $PATH";
  if (failed.reason == Reason::not_executable || program.contains('/')) {
    why = std::strerror(failed.error == 0 ? ENOENT : static_cast<int>(failed.error));
    why[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(why[0])));
    if (failed.reason == Reason::not_found) why = fmt::format("stat {}: {}", program, why);
  }
  const std::uint8_t code = failed.reason == Reason::not_found ? 127 : 126;
  return {code, fmt::format("unable to start container process: exec: \"{}\": {}", program, why)};
}

}  // namespace vmm::engine
