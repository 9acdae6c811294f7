#include "src/hypervisor/session/report.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "src/base/json.h"
#include "src/base/unique_fd.h"

namespace vmm {
namespace {

// A field of /proc/self/smaps_rollup or of status, in bytes; 0 when it is not there.
std::uint64_t proc_bytes(const std::string& text, std::string_view field) {
  const auto at = text.find(field);
  if (at == std::string::npos) return 0;
  std::uint64_t kibibytes = 0;
  const char* begin = text.data() + at + field.size();
  while (*begin == ' ' || *begin == '\t' || *begin == ':') ++begin;
  std::from_chars(begin, text.data() + text.size(), kibibytes);
  return kibibytes * 1024;
}

NamedValues exits_of(const ExitCounters& counters) {
  return {{"io", counters.io.load()},
          {"mmio", counters.mmio.load()},
          {"interrupted", counters.interrupted.load()},
          {"other", counters.other.load()}};
}

}  // namespace

std::string status_json(const MachineConfig& config, Machine& machine, const std::string& state,
                        std::chrono::nanoseconds uptime, unsigned reboots) {
  const auto uptime_ms = std::chrono::duration_cast<std::chrono::milliseconds>(uptime).count();
  NamedValues status = {{"state", state},
                        {"name", config.name},
                        {"pid", static_cast<std::uint64_t>(::getpid())},
                        {"version", std::string(VMM_VERSION)},
                        {"uptime_ms", static_cast<std::uint64_t>(uptime_ms)},
                        {"reboots", std::uint64_t{reboots}},
                        {"memory", config.memory},
                        {"cpus", std::uint64_t{config.cpus}},
                        {"kernel", config.kernel}};
  for (auto& of_devices : machine.devices().status()) status.push_back(std::move(of_devices));
  return to_json_text(status);
}

std::string metrics_json(Machine& machine) {
  NamedValuesList vcpus;
  for (const auto& vcpu : machine.vcpus()) vcpus.push_back(exits_of(vcpu->counters()));
  NamedValues metrics = {{"vcpus", std::move(vcpus)}, {"devices", machine.devices().metrics()}};
  if (const auto rollup = read_text_file("/proc/self/smaps_rollup")) {
    const std::uint64_t resident = proc_bytes(*rollup, "Rss");
    const std::uint64_t guest = machine.memory().resident();
    metrics.push_back({"memory", NamedValues{{"guest", machine.memory().size()},
                                             {"guest_resident", guest},
                                             {"resident", resident},
                                             {"overhead", resident - std::min(resident, guest)}}});
  }
  return to_json_text(metrics);
}

}  // namespace vmm
