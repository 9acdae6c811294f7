#include "src/engine/runtime/spec.h"

#include <signal.h>

#include <algorithm>
#include <array>

#include "src/base/text.h"

namespace vmm::engine {
namespace {

using nlohmann::json;

// In the order of their numbers (linux/capability.h).
constexpr std::array<std::string_view, 41> kCapabilities = {"CHOWN",
                                                            "DAC_OVERRIDE",
                                                            "DAC_READ_SEARCH",
                                                            "FOWNER",
                                                            "FSETID",
                                                            "KILL",
                                                            "SETGID",
                                                            "SETUID",
                                                            "SETPCAP",
                                                            "LINUX_IMMUTABLE",
                                                            "NET_BIND_SERVICE",
                                                            "NET_BROADCAST",
                                                            "NET_ADMIN",
                                                            "NET_RAW",
                                                            "IPC_LOCK",
                                                            "IPC_OWNER",
                                                            "SYS_MODULE",
                                                            "SYS_RAWIO",
                                                            "SYS_CHROOT",
                                                            "SYS_PTRACE",
                                                            "SYS_PACCT",
                                                            "SYS_ADMIN",
                                                            "SYS_BOOT",
                                                            "SYS_NICE",
                                                            "SYS_RESOURCE",
                                                            "SYS_TIME",
                                                            "SYS_TTY_CONFIG",
                                                            "MKNOD",
                                                            "LEASE",
                                                            "AUDIT_WRITE",
                                                            "AUDIT_CONTROL",
                                                            "SETFCAP",
                                                            "MAC_OVERRIDE",
                                                            "MAC_ADMIN",
                                                            "SYSLOG",
                                                            "WAKE_ALARM",
                                                            "BLOCK_SUSPEND",
                                                            "AUDIT_READ",
                                                            "PERFMON",
                                                            "BPF",
                                                            "CHECKPOINT_RESTORE"};

constexpr std::array<std::pair<std::string_view, int>, 31> kSignals = {
    {{"HUP", SIGHUP},   {"INT", SIGINT},       {"QUIT", SIGQUIT}, {"ILL", SIGILL},
     {"TRAP", SIGTRAP}, {"ABRT", SIGABRT},     {"BUS", SIGBUS},   {"FPE", SIGFPE},
     {"KILL", SIGKILL}, {"USR1", SIGUSR1},     {"SEGV", SIGSEGV}, {"USR2", SIGUSR2},
     {"PIPE", SIGPIPE}, {"ALRM", SIGALRM},     {"TERM", SIGTERM}, {"STKFLT", SIGSTKFLT},
     {"CHLD", SIGCHLD}, {"CONT", SIGCONT},     {"STOP", SIGSTOP}, {"TSTP", SIGTSTP},
     {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU},     {"URG", SIGURG},   {"XCPU", SIGXCPU},
     {"XFSZ", SIGXFSZ}, {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH},
     {"IO", SIGIO},     {"PWR", SIGPWR},       {"SYS", SIGSYS}}};

std::string upper(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return result;
}

std::string text_of(const json& config, const char* key) {
  const auto found = config.find(key);
  return found == config.end() || !found->is_string() ? "" : found->get<std::string>();
}

std::vector<std::string> list_of(const json& config, const char* key) {
  std::vector<std::string> list;
  const auto found = config.find(key);
  if (found == config.end() || !found->is_array()) return list;
  for (const auto& one : *found) {
    if (one.is_string()) list.push_back(one.get<std::string>());
  }
  return list;
}

std::string_view name_of(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

// Those of `below` that `above` does not have come first.
void put_beneath(std::vector<std::string>& above, std::vector<std::string> below) {
  std::erase_if(below, [&above](const std::string& one) {
    return std::ranges::any_of(
        above, [&one](const std::string& other) { return name_of(one) == name_of(other); });
  });
  above.insert(above.begin(), below.begin(), below.end());
}

Result<std::uint64_t> mask_of(const std::vector<std::string>& names, std::string_view what) {
  std::uint64_t mask = 0;
  for (const auto& given : names) {
    auto name = upper(given);
    if (name == "ALL") return protocol::agent::kAllCapabilities;
    if (name.starts_with("CAP_")) name.erase(0, 4);
    const auto found = std::ranges::find(kCapabilities, name);
    if (found == kCapabilities.end()) {
      return fail("invalid {}: unknown capability: \"CAP_{}\"", what, name);
    }
    mask |= std::uint64_t{1} << (found - kCapabilities.begin());
  }
  return mask;
}

}  // namespace

std::vector<std::string> ContainerSpec::arguments() const {
  auto all = entrypoint;
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

Result<void> apply_image(ContainerSpec& spec, const ImageConfig& image, bool entrypoint_given) {
  const auto found = image.json.find("config");
  const json config = found != image.json.end() && found->is_object() ? *found : json::object();
  if (!entrypoint_given) {
    spec.entrypoint = list_of(config, "Entrypoint");
    if (spec.command.empty()) spec.command = list_of(config, "Cmd");
  }
  if (spec.entrypoint.empty() && spec.command.empty()) return fail("no command specified");
  put_beneath(spec.environment, list_of(config, "Env"));
  if (std::ranges::none_of(spec.environment,
                           [](const auto& one) { return one.starts_with("PATH="); })) {
    spec.environment.insert(spec.environment.begin(),
                            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  }
  if (const auto labels = config.find("Labels"); labels != config.end() && labels->is_object()) {
    std::vector<std::string> below;
    for (const auto& [name, value] : labels->items()) {
      if (value.is_string()) below.push_back(name + "=" + value.get<std::string>());
    }
    put_beneath(spec.labels, std::move(below));
  }
  if (spec.working_directory.empty()) spec.working_directory = text_of(config, "WorkingDir");
  if (spec.user.empty()) spec.user = text_of(config, "User");
  if (spec.stop_signal.empty()) spec.stop_signal = text_of(config, "StopSignal");
  if (const auto ports = config.find("ExposedPorts"); ports != config.end() && ports->is_object()) {
    for (const auto& [port, _] : ports->items()) {
      if (std::ranges::find(spec.exposed, port) == spec.exposed.end()) spec.exposed.push_back(port);
    }
  }
  return {};
}

Result<std::uint64_t> capabilities_of(const ContainerSpec& spec) {
  if (spec.privileged) return protocol::agent::kAllCapabilities;
  const auto added = TRY(mask_of(spec.capabilities_added, "CapAdd"));
  const auto dropped = TRY(mask_of(spec.capabilities_dropped, "CapDrop"));
  // ALL of one list is less than what the other one names.
  if (dropped == protocol::agent::kAllCapabilities) return added;
  return (protocol::agent::kDefaultCapabilities | added) & ~dropped;
}

Result<int> parse_signal(std::string_view text) {
  constexpr std::uint64_t kLast = 64;
  if (const auto number = parse_number(text, 1, kLast, "signal")) return static_cast<int>(*number);
  auto name = upper(text);
  if (name.starts_with("SIG")) name.erase(0, 3);
  const auto found = std::ranges::find(kSignals, name, &std::pair<std::string_view, int>::first);
  if (found != kSignals.end()) return found->second;
  constexpr int kFirstRealTime = 34, kLastRealTime = 64;
  if (name.starts_with("RTMIN")) {
    const auto offset = name.size() == 5 ? std::string_view("0") : std::string_view(name).substr(6);
    if (const auto number = parse_number(offset, 0, 30, "signal")) {
      return kFirstRealTime + static_cast<int>(*number);
    }
  }
  if (name == "RTMAX") return kLastRealTime;
  return fail("invalid signal: {}", text);
}

int stop_signal_of(const ContainerSpec& spec) {
  return spec.stop_signal.empty() ? SIGTERM : parse_signal(spec.stop_signal).value_or(SIGTERM);
}

}  // namespace vmm::engine
