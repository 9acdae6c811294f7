#include "src/engine/cli/run_options.h"

#include <arpa/inet.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::engine::cli {
namespace {

constexpr std::uint64_t kLeastMemory = 6u << 20;

// Lines of a file of NAME=value, without comments.
Result<std::vector<std::string>> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  const auto text = TRY(read_text_file(path));
  for (auto line : split(text, '\n')) {
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with('#')) lines.emplace_back(line);
  }
  return lines;
}

Result<void> add_variable(std::vector<std::string>& environment, const std::string& text) {
  const auto equals = text.find('=');
  const auto name = text.substr(0, equals);
  if (name.empty()) return fail("invalid environment variable: {}", text);
  if (name.find_first_of(" \t") != std::string::npos) {
    return fail("invalid environment variable: '{}' contains whitespaces", name);
  }
  std::erase_if(environment, [&name](const auto& one) { return one.starts_with(name + "="); });
  if (equals != std::string::npos) {
    environment.push_back(text);
  } else if (const char* value = std::getenv(name.c_str())) {
    environment.push_back(fmt::format("{}={}", name, value));
  }
  return {};
}

struct Resource {
  std::string_view name;
  int number;
};
constexpr std::array kResources = {
    Resource{"core", RLIMIT_CORE},         Resource{"cpu", RLIMIT_CPU},
    Resource{"data", RLIMIT_DATA},         Resource{"fsize", RLIMIT_FSIZE},
    Resource{"locks", RLIMIT_LOCKS},       Resource{"memlock", RLIMIT_MEMLOCK},
    Resource{"msgqueue", RLIMIT_MSGQUEUE}, Resource{"nice", RLIMIT_NICE},
    Resource{"nofile", RLIMIT_NOFILE},     Resource{"nproc", RLIMIT_NPROC},
    Resource{"rss", RLIMIT_RSS},           Resource{"rtprio", RLIMIT_RTPRIO},
    Resource{"rttime", RLIMIT_RTTIME},     Resource{"sigpending", RLIMIT_SIGPENDING},
    Resource{"stack", RLIMIT_STACK}};

// "nofile=1024:2048"
Result<protocol::agent::Limit> parse_limit(const std::string& text) {
  const auto equals = text.find('=');
  const auto found = std::ranges::find(kResources, text.substr(0, equals), &Resource::name);
  if (equals == std::string::npos || found == kResources.end()) {
    return fail("invalid ulimit '{}': expected NAME=SOFT[:HARD]", text);
  }
  const auto value = [&](std::string_view part) -> Result<std::uint64_t> {
    if (part == "-1" || part == "unlimited") return ~std::uint64_t{0};
    return parse_number(part, 0, ~std::uint64_t{0}, "ulimit");
  };
  const auto values = text.substr(equals + 1);
  const auto colon = values.find(':');
  const auto soft = TRY(value(std::string_view(values).substr(0, colon)));
  const auto hard =
      colon == std::string::npos ? soft : TRY(value(std::string_view(values).substr(colon + 1)));
  if (soft > hard) {
    return fail("ulimit soft limit must be less than or equal to hard limit: {} > {}", soft, hard);
  }
  return protocol::agent::Limit{static_cast<std::uint8_t>(found->number), soft, hard};
}

Result<std::uint64_t> parse_cpus(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != 0 || !(value > 0)) {
    return fail("invalid argument \"{}\" for \"--cpus\" flag: expected a number such as 1.5", text);
  }
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  if (value < 0.01 || value > static_cast<double>(online)) {
    return fail("range of CPUs is from 0.01 to {}.00, as there are only {} CPUs available", online,
                online);
  }
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::lround(value * 1000)));
}

Result<void> add_limits(const Words& words, ContainerSpec& spec) {
  if (words.has("memory")) {
    spec.memory = TRY(parse_bytes(words.text("memory")));
    if (spec.memory < kLeastMemory) return fail("Minimum memory limit allowed is 6MB");
  }
  if (words.has("cpus")) spec.cpu_limit = TRY(parse_cpus(words.text("cpus")));
  if (words.has("shm-size")) spec.shm_size = TRY(parse_bytes(words.text("shm-size")));
  if (const auto limit = words.text("pids-limit"); !limit.empty() && limit != "-1") {
    spec.process_limit = TRY(parse_number(limit, 0, 1u << 22, "pids-limit"));
  }
  for (const auto& text : words.list("ulimit")) spec.limits.push_back(TRY(parse_limit(text)));
  for (const auto& text : words.list("sysctl")) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) return fail("invalid sysctl '{}': expected NAME=VALUE", text);
    spec.sysctls.push_back({text.substr(0, equals), text.substr(equals + 1)});
  }
  if (words.has("stop-signal")) {
    spec.stop_signal = words.text("stop-signal");
    TRY(parse_signal(spec.stop_signal));
  }
  if (words.has("stop-timeout")) {
    spec.stop_timeout = static_cast<std::uint32_t>(
        TRY(parse_number(words.text("stop-timeout"), 0, 1u << 30, "stop-timeout")));
  }
  return {};
}

Result<void> add_log_options(const Words& words, ContainerSpec& spec) {
  for (const auto& text : words.list("log-opt")) {
    const auto equals = text.find('=');
    const auto name = text.substr(0, equals);
    const auto value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (name == "max-size") {
      spec.log_size = TRY(parse_bytes(value));
    } else if (name == "max-file") {
      spec.log_files = static_cast<std::uint32_t>(TRY(parse_number(value, 1, 1000, "max-file")));
    } else {
      return fail("unknown log opt '{}': expected max-size or max-file", name);
    }
  }
  return {};
}

Result<void> add_network(const Words& words, ContainerSpec& spec) {
  if (words.has("network")) spec.network = words.text("network");
  if (spec.network == "bridge") spec.network = "default";
  if (spec.network != "default" && spec.network != "none") {
    return fail("network {} is not supported: expected default or none", spec.network);
  }
  for (const auto& host : words.list("add-host")) {
    const auto colon = host.find_first_of(":=");
    if (colon == std::string::npos || colon == 0 || colon + 1 == host.size()) {
      return fail("bad format for add-host: \"{}\"", host);
    }
    const auto address = host.substr(colon + 1);
    in6_addr parsed{};
    if (address != "host-gateway" && ::inet_pton(AF_INET, address.c_str(), &parsed) != 1 &&
        ::inet_pton(AF_INET6, address.c_str(), &parsed) != 1) {
      return fail("invalid IP address in add-host: \"{}\"", address);
    }
    spec.extra_hosts.push_back(fmt::format("{}:{}", host.substr(0, colon), address));
  }
  spec.name_servers = words.list("dns");
  for (const auto& server : spec.name_servers) {
    in6_addr parsed{};
    if (::inet_pton(AF_INET, server.c_str(), &parsed) != 1 &&
        ::inet_pton(AF_INET6, server.c_str(), &parsed) != 1) {
      return fail("{} is not an ip address", server);
    }
  }
  spec.search_domains = words.list("dns-search");
  spec.exposed = words.list("expose");
  for (auto& port : spec.exposed) {
    if (!port.contains('/')) port += "/tcp";
  }
  for (const auto& text : words.list("publish")) {
    for (auto& port : TRY(parse_publish(text))) spec.ports.push_back(std::move(port));
  }
  return {};
}

Result<void> add_labels(const Words& words, ContainerSpec& spec) {
  auto labels = std::vector<std::string>();
  for (const auto& path : words.list("label-file")) {
    for (auto& line : TRY(read_lines(path))) labels.push_back(std::move(line));
  }
  for (auto& label : words.list("label")) labels.push_back(std::move(label));
  for (auto& label : labels) {
    if (!label.contains('=')) label += '=';
    const auto name = label.substr(0, label.find('=') + 1);
    std::erase_if(spec.labels, [&name](const auto& one) { return one.starts_with(name); });
    spec.labels.push_back(std::move(label));
  }
  return {};
}

// Options that go with a snapshot: of the container's surroundings on this host.
constexpr std::array<std::string_view, 20> kOfSurroundings = {
    "add-host", "cidfile",  "cold",        "detach", "detach-keys", "dns",     "dns-search",
    "from",     "hostname", "interactive", "label",  "label-file",  "log-opt", "name",
    "number",   "publish",  "publish-all", "rm",     "sig-proxy",   "tty"};

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto digits = text.find_first_not_of("0123456789.");
  auto unit = std::string(digits == std::string_view::npos ? "" : text.substr(digits));
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit.size() > 1 && unit.ends_with('b')) unit.pop_back();
  if (unit.size() > 1 && unit.ends_with('i')) unit.pop_back();
  constexpr std::string_view kUnits = "bkmgtp";
  const auto power = unit.empty() ? 0 : kUnits.find(unit);
  const std::string number(text.substr(0, digits));
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (number.empty() || *end != 0 || power == std::string_view::npos || unit.size() > 1) {
    return fail("invalid size: '{}'", text);
  }
  return static_cast<std::uint64_t>(std::ldexp(value, static_cast<int>(power) * 10));
}

Result<std::vector<std::string>> environment_of(const Words& words) {
  std::vector<std::string> environment;
  for (const auto& path : words.list("env-file")) {
    for (const auto& line : TRY(read_lines(path))) TRY(add_variable(environment, line));
  }
  for (const auto& text : words.list("env")) TRY(add_variable(environment, text));
  return environment;
}

Result<ContainerSpec> spec_of(const Words& words) {
  ContainerSpec spec;
  const auto& names = words.names();
  if (!names.empty()) spec.command.assign(names.begin() + 1, names.end());
  if (const auto entrypoint = words.text("entrypoint"); !entrypoint.empty()) {
    spec.entrypoint = {entrypoint};
  }
  spec.environment = TRY(environment_of(words));
  TRY(add_labels(words, spec));
  spec.working_directory = words.text("workdir");
  if (!spec.working_directory.empty() && !spec.working_directory.starts_with('/')) {
    return fail("the working directory '{}' is invalid, it needs to be an absolute path",
                spec.working_directory);
  }
  spec.user = words.text("user");
  spec.host_name = words.text("hostname");
  spec.tty = words.has("tty");
  spec.open_input = words.has("interactive");
  const bool detached = words.has("detach");
  spec.input_once = spec.open_input && !detached;
  spec.attach_output = spec.attach_error = !detached;
  spec.auto_remove = words.has("rm");
  spec.init = words.has("init");
  spec.read_only = words.has("read-only");
  spec.privileged = words.has("privileged");
  spec.capabilities_added = words.list("cap-add");
  spec.capabilities_dropped = words.list("cap-drop");
  TRY(capabilities_of(spec));
  spec.groups = words.list("group-add");
  for (const auto& text : words.list("tmpfs")) {
    const auto colon = text.find(':');
    if (!text.starts_with('/')) return fail("invalid tmpfs '{}': expected /PATH[:OPTIONS]", text);
    spec.tmpfs.push_back(
        {text.substr(0, colon), colon == std::string::npos ? "" : text.substr(colon + 1)});
  }
  TRY(add_limits(words, spec));
  TRY(add_log_options(words, spec));
  TRY(add_network(words, spec));
  spec.cold = words.has("cold");
  if (words.has("kernel")) spec.kernel = std::filesystem::absolute(words.text("kernel"));
  return spec;
}

Result<ContainerSpec> spec_from(const ContainerSpec& saved, const Words& words) {
  for (const auto& option : words.options()) {
    if (std::ranges::find(kOfSurroundings, option) != kOfSurroundings.end()) continue;
    return fail("--{} does not go with --from: the snapshot says it", option);
  }
  const auto given = TRY(spec_of(words));
  auto spec = saved;
  spec.host_name = given.host_name;
  if (given.tty && !spec.tty) return fail("--tty: the process of the snapshot has no terminal");
  if (given.open_input && !spec.open_input) {
    return fail("--interactive: the process of the snapshot has no input");
  }
  spec.input_once = spec.open_input && given.attach_output;
  spec.attach_output = given.attach_output;
  spec.attach_error = given.attach_error;
  spec.auto_remove = given.auto_remove;
  spec.cold = saved.cold || given.cold;  // of later starts
  spec.ports = given.ports;
  if (!given.extra_hosts.empty()) spec.extra_hosts = given.extra_hosts;
  if (!given.name_servers.empty()) spec.name_servers = given.name_servers;
  if (!given.search_domains.empty()) spec.search_domains = given.search_domains;
  TRY(add_log_options(words, spec));
  TRY(add_labels(words, spec));
  return spec;
}

}  // namespace vmm::engine::cli
