// info: the host, the store, and what is in it.
#include <nlohmann/json.hpp>
#include <sys/utsname.h>
#include <unistd.h>

#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/go_template.h"
#include "src/engine/image/manifest.h"
#include "src/engine/runtime/container.h"
#include "src/engine/runtime/machine_template.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

// "Debian GNU/Linux 12 (bookworm)" and "12", of os-release(5).
std::string value_in(const std::string& text, std::string_view name) {
  for (const auto line : split(text, '\n')) {
    if (!line.starts_with(name) || line.substr(name.size(), 1) != "=") continue;
    auto value = line.substr(name.size() + 1);
    if (value.size() >= 2 && (value[0] == '"' || value[0] == '\'')) {
      value = value.substr(1, value.size() - 2);
    }
    return std::string(value);
  }
  return "";
}

Result<Json> describe() {
  auto store = TRY(open_store());
  std::array<int, 4> states{};
  const auto containers = TRY(Containers(store).list());
  for (const auto& one : containers) ++states[static_cast<std::size_t>(one.state)];
  const auto count = [&states](ContainerState state) {
    return states[static_cast<std::size_t>(state)];
  };
  utsname host{};
  (void)::uname(&host);  // cannot fail
  const auto release = read_text_file("/etc/os-release").value_or("");
  auto system = value_in(release, "PRETTY_NAME");
  if (system.empty()) system = "Linux";
  return Json{
      {"Containers", containers.size()},
      {"ContainersRunning", count(ContainerState::running)},
      {"ContainersPaused", count(ContainerState::paused)},
      {"ContainersStopped", count(ContainerState::created) + count(ContainerState::exited)},
      {"Images", TRY(Catalog(store).list()).size()},
      {"Driver", "erofs"},
      {"LoggingDriver", "json-file"},
      {"ServerVersion", VMM_VERSION},
      {"KernelVersion", host.release},
      {"OperatingSystem", system},
      {"OSVersion", value_in(release, "VERSION_ID")},
      {"OSType", "linux"},
      {"Architecture", host.machine},
      {"NCPU", ::sysconf(_SC_NPROCESSORS_ONLN)},
      {"MemTotal", ::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGESIZE)},
      {"DockerRootDir", store.root()},
      {"Name", host.nodename},
      {"Warnings", MachineTemplates(store.root()).warnings()},
      {"ClientInfo",
       {{"Version", VMM_VERSION}, {"Os", "linux"}, {"Arch", Platform::of_host().architecture}}}};
}

std::string in_words(const Json& info) {
  const auto text = [&info](const char* name) {
    return info[name].is_string() ? info[name].get<std::string>() : info[name].dump();
  };
  return fmt::format(
      "Client:\n Version:    {0}\n\n"
      "Server:\n Containers: {1}\n  Running: {2}\n  Paused: {3}\n  Stopped: {4}\n Images: {5}\n"
      " Server Version: {0}\n Storage Driver: {6}\n Logging Driver: {7}\n Kernel Version: {8}\n"
      " Operating System: {9}\n OSType: {10}\n Architecture: {11}\n CPUs: {12}\n"
      " Total Memory: {13:.4g}GiB\n Name: {14}\n Docker Root Dir: {15}\n",
      VMM_VERSION, text("Containers"), text("ContainersRunning"), text("ContainersPaused"),
      text("ContainersStopped"), text("Images"), text("Driver"), text("LoggingDriver"),
      text("KernelVersion"), text("OperatingSystem"), text("OSType"), text("Architecture"),
      text("NCPU"), info["MemTotal"].get<double>() / (1u << 30), text("Name"),
      text("DockerRootDir"));
}

}  // namespace

Result<int> info(const Words& words) {
  const auto found = TRY(describe());
  const auto format = words.text("format");
  if (format.empty()) {
    print(in_words(found));
    for (const auto& warning : found["Warnings"]) {
      fmt::print(stderr, "WARNING: {}\n", printable(warning.get<std::string>()));
    }
  } else if (format == "json") {
    print(found.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    print(TRY(TRY(GoTemplate::parse(format)).render(found)) + "\n");
  }
  return 0;
}

}  // namespace vmm::engine::cli
