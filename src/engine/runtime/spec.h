// ContainerSpec: what a container is, from its making on: the person's options with the image's
// configuration beneath them. A file in the container's directory, as numbered fields: arguments
// and environment are any bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/engine/image/manifest.h"
#include "src/protocol/agent.h"

namespace vmm::engine {

// A port of the container that the host offers; host_port 0: one is to be chosen.
struct PublishedPort {
  std::string protocol = "tcp";
  std::string host_address;  // "": all of the host's
  std::uint16_t host_port = 0;
  std::uint16_t container_port = 0;
  static void fields(auto& message, auto& archive) {
    archive(1, message.protocol);
    archive(2, message.host_address);
    archive(3, message.host_port);
    archive(4, message.container_port);
  }
};

struct Tmpfs {
  std::string target, options;
  static void fields(auto& message, auto& archive) {
    archive(1, message.target);
    archive(2, message.options);
  }
};

// Docker keeps all; here a log is bounded, as the disk is everybody's.
inline constexpr std::uint64_t kDefaultLogSize = 100u << 20;  // bytes of a file
inline constexpr std::uint32_t kDefaultLogFiles = 2;

struct ContainerSpec {
  std::vector<std::string> entrypoint, command;  // what is run: one behind the other
  std::vector<std::string> environment;          // NAME=value
  std::vector<std::string> labels;               // NAME=value
  std::string working_directory, user, host_name;
  bool tty = false;
  bool open_input = false;  // -i
  bool input_once = false;  // the end of the first who attaches is the end of the input
  bool attach_output = false, attach_error = false;
  bool auto_remove = false;
  bool init = false;
  bool read_only = false;
  bool privileged = false;
  std::uint64_t memory = 0;     // bytes; 0: no limit
  std::uint64_t cpu_limit = 0;  // thousandths of a CPU; 0: no limit
  std::uint64_t process_limit = 0;
  std::uint64_t shm_size = 64u << 20;
  std::string stop_signal;                    // "": SIGTERM
  std::optional<std::uint32_t> stop_timeout;  // seconds
  std::vector<std::string> capabilities_added, capabilities_dropped;
  std::vector<protocol::agent::Limit> limits;
  std::vector<protocol::agent::Sysctl> sysctls;
  std::vector<Tmpfs> tmpfs;
  std::vector<std::string> extra_hosts;  // NAME:ADDRESS
  std::vector<std::string> name_servers, search_domains;
  std::string network = "default";  // or none
  std::vector<PublishedPort> ports;
  std::vector<std::string> exposed;  // "80/tcp"
  std::uint64_t log_size = kDefaultLogSize;
  std::uint32_t log_files = kDefaultLogFiles;
  std::string kernel;  // a path; "": the machine files' own
  std::vector<std::string> groups;
  bool cold = false;  // its machine boots, whatever templates there are
  // Its machine has the image as persistent memory, whose pages it shares with other machines, and
  // not as a disk.
  bool mapped_image = false;

  std::vector<std::string> arguments() const;

  static void fields(auto& message, auto& archive) {
    archive(1, message.entrypoint);
    archive(2, message.command);
    archive(3, message.environment);
    archive(4, message.labels);
    archive(5, message.working_directory);
    archive(6, message.user);
    archive(7, message.host_name);
    archive(8, message.tty);
    archive(9, message.open_input);
    archive(10, message.input_once);
    archive(11, message.attach_output);
    archive(12, message.attach_error);
    archive(13, message.auto_remove);
    archive(14, message.init);
    archive(15, message.read_only);
    archive(16, message.privileged);
    archive(17, message.memory);
    archive(18, message.cpu_limit);
    archive(19, message.process_limit);
    archive(20, message.shm_size);
    archive(21, message.stop_signal);
    archive(22, message.stop_timeout);
    archive(23, message.capabilities_added);
    archive(24, message.capabilities_dropped);
    archive(25, message.limits);
    archive(26, message.sysctls);
    archive(27, message.tmpfs);
    archive(28, message.extra_hosts);
    archive(29, message.name_servers);
    archive(30, message.search_domains);
    archive(31, message.network);
    archive(32, message.ports);
    archive(33, message.exposed);
    archive(34, message.log_size);
    archive(35, message.log_files);
    archive(36, message.kernel);
    archive(37, message.groups);
    archive(38, message.cold);
    archive(39, message.mapped_image);
  }
};

// What the image says, under what `spec` says already: environment, labels, entrypoint, command,
// user, working directory, stop signal, exposed ports. An entrypoint that the person gave replaces
// the image's command too. Error: there is nothing to run.
Result<void> apply_image(ContainerSpec& spec, const ImageConfig& image, bool entrypoint_given);

// The capabilities as a mask. Error: "invalid CapAdd: unknown capability: \"CAP_X\"".
Result<std::uint64_t> capabilities_of(const ContainerSpec& spec);

// "TERM", "SIGTERM", "15". Error: "invalid signal: X".
Result<int> parse_signal(std::string_view text);
int stop_signal_of(const ContainerSpec& spec);

inline constexpr std::uint32_t kStopSeconds = 10;

}  // namespace vmm::engine
