#include "src/engine/cli/container_inspect.h"

#include "src/base/text.h"
#include "src/base/unique_fd.h"
#include "src/engine/runtime/log_writer.h"
#include "src/engine/runtime/monitor.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kNever = "0001-01-01T00:00:00Z";

std::string time_of(std::int64_t time) {
  return time == 0 ? kNever : format_nanoseconds_short(time);
}

Json list_or_null(const std::vector<std::string>& list) {
  return list.empty() ? Json() : Json(list);
}

// NAME=value as an object.
Json object_of(const std::vector<std::string>& pairs) {
  Json object = Json::object();
  for (const auto& pair : pairs) {
    const auto equals = pair.find('=');
    object[pair.substr(0, equals)] = equals == std::string::npos ? "" : pair.substr(equals + 1);
  }
  return object;
}

std::int64_t pid_of(const Containers& containers, const Container& container) {
  if (!container.is_running()) return 0;
  const auto text = read_text_file(containers.directory(container.id) + "/pid", 64);
  if (!text) return 0;
  return static_cast<std::int64_t>(
      parse_number(split(*text, '\n')[0], 1, 1u << 22, "pid").value_or(0));
}

Json state_of(const Containers& containers, const Container& container) {
  return {{"Status", to_text(container.state)},
          {"Running", container.is_running()},
          {"Paused", container.state == ContainerState::paused},
          {"Restarting", false},
          {"OOMKilled", container.out_of_memory},
          {"Dead", false},
          {"Pid", pid_of(containers, container)},
          {"ExitCode", container.exit_code},
          {"Error", container.error},
          {"StartedAt", time_of(container.started)},
          {"FinishedAt", time_of(container.finished)}};
}

Json bindings_of(const ContainerSpec& spec, bool empty_for_any) {
  Json bindings = Json::object();
  for (const auto& port : spec.ports) {
    const auto key = fmt::format("{}/{}", port.container_port, port.protocol);
    bindings[key].push_back(
        {{"HostIp", port.host_address.empty() && !empty_for_any ? "0.0.0.0" : port.host_address},
         {"HostPort", port.host_port == 0 ? "" : fmt::format("{}", port.host_port)}});
  }
  return bindings;
}

Json config_of(const Container& container) {
  const auto& spec = container.spec;
  Json config = {{"Hostname", spec.host_name},
                 {"Domainname", ""},
                 {"User", spec.user},
                 {"AttachStdin", spec.input_once},
                 {"AttachStdout", spec.attach_output},
                 {"AttachStderr", spec.attach_error}};
  if (!spec.exposed.empty()) {
    config["ExposedPorts"] = Json::object();
    for (const auto& port : spec.exposed) config["ExposedPorts"][port] = Json::object();
  }
  config["Tty"] = spec.tty;
  config["OpenStdin"] = spec.open_input;
  config["StdinOnce"] = spec.input_once;
  config["Env"] = spec.environment;
  config["Cmd"] = list_or_null(spec.command);
  config["Image"] = container.image_name;
  config["Volumes"] = Json();
  config["WorkingDir"] = spec.working_directory;
  config["Entrypoint"] = list_or_null(spec.entrypoint);
  config["OnBuild"] = Json();
  config["Labels"] = object_of(spec.labels);
  if (!spec.stop_signal.empty()) config["StopSignal"] = spec.stop_signal;
  if (spec.stop_timeout) config["StopTimeout"] = *spec.stop_timeout;
  return config;
}

Json host_config_of(const Container& container) {
  const auto& spec = container.spec;
  Json tmpfs = Json::object();
  for (const auto& mount : spec.tmpfs) tmpfs[mount.target] = mount.options;
  Json sysctls = Json::object();
  for (const auto& sysctl : spec.sysctls) sysctls[sysctl.name] = sysctl.value;
  return {{"Binds", Json()},
          {"LogConfig",
           {{"Type", "json-file"},
            {"Config",
             {{"max-size", fmt::format("{}", spec.log_size)},
              {"max-file", fmt::format("{}", spec.log_files)}}}}},
          {"NetworkMode", spec.network},
          {"PortBindings", bindings_of(spec, true)},
          {"RestartPolicy", {{"Name", "no"}, {"MaximumRetryCount", 0}}},
          {"AutoRemove", spec.auto_remove},
          {"CapAdd", list_or_null(spec.capabilities_added)},
          {"CapDrop", list_or_null(spec.capabilities_dropped)},
          {"Dns", spec.name_servers},
          {"DnsSearch", spec.search_domains},
          {"ExtraHosts", list_or_null(spec.extra_hosts)},
          {"GroupAdd", list_or_null(spec.groups)},
          {"Privileged", spec.privileged},
          {"PublishAllPorts", false},
          {"ReadonlyRootfs", spec.read_only},
          {"ShmSize", spec.shm_size},
          {"Tmpfs", tmpfs},
          {"Sysctls", sysctls},
          {"Runtime", "vmm"},
          {"Memory", spec.memory},
          {"NanoCpus", spec.cpu_limit * 1'000'000},
          {"PidsLimit", spec.process_limit == 0 ? Json() : Json(spec.process_limit)},
          {"Init", spec.init}};
}

Json network_of(const Container& container) {
  const bool up = container.is_running() && container.spec.network != "none";
  const auto* const address = up ? kMachineAddress : "";
  const auto* const gateway = up ? kGatewayAddress : "";
  const auto* const name = container.spec.network == "none" ? "none" : "bridge";
  return {{"Ports", up ? bindings_of(container.spec, false) : Json::object()},
          {"Gateway", gateway},
          {"IPAddress", address},
          {"IPPrefixLen", up ? 24 : 0},
          {"Networks",
           {{name, {{"Gateway", gateway}, {"IPAddress", address}, {"IPPrefixLen", up ? 24 : 0}}}}}};
}

}  // namespace

Json describe(const Containers& containers, const Container& container) {
  const auto directory = containers.directory(container.id);
  const auto arguments = container.spec.arguments();
  return {
      {"Id", container.id},
      {"Created", format_nanoseconds_short(container.created)},
      {"Path", arguments.empty() ? "" : arguments[0]},
      {"Args", arguments.empty() ? Json::array()
                                 : Json(std::vector(arguments.begin() + 1, arguments.end()))},
      {"State", state_of(containers, container)},
      {"Image", container.image.text()},
      {"LogPath", directory + "/log"},
      {"Name", "/" + container.name},
      {"RestartCount", 0},
      {"Driver", "erofs"},
      {"Platform", "linux"},
      {"HostConfig", host_config_of(container)},
      {"GraphDriver",
       {{"Data", {{"Writable", directory + "/" + container.writable_file()}}}, {"Name", "erofs"}}},
      {"Mounts", Json::array()},
      {"Config", config_of(container)},
      {"NetworkSettings", network_of(container)}};
}

}  // namespace vmm::engine::cli
