// What the host says to the guest agent, and hears of it. The agent only listens: on vsock port
// kAgentPort, or a Unix socket. Each connection begins with a header, which the agent echoes (with
// kind `refused` where it refuses, and closes); then:
//
//   machine            requests, one answer each, in their order: Hello, Configure, MountRoot, ...
//   control            of one process: Start (or Follow, by who comes later) goes in, Started or
//                      Failed comes out; Resize and Signal go in; Exited comes out last
//   standard_input, standard_output, standard_error, terminal
//                      of one process: raw bytes. The end of the input is a half-close.
//
// Exited is sent when the last byte and the end of each output was handed to its connection, so
// who reads the outputs to their ends has all. What a process writes before somebody connects
// waits, in a pipe. A later connection of the same stream takes it over.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/protocol/fields.h"

namespace vmm::protocol::agent {

inline constexpr std::uint32_t kAgentPort = 1024;
inline constexpr std::uint16_t kVersion = 1;
inline constexpr std::size_t kMaxMessage = 4u << 20;  // bytes; the kernel takes 2 MiB of arguments

enum class Kind : std::uint8_t {
  refused,
  machine,
  control,
  standard_input,
  standard_output,
  standard_error,
  terminal,
  last = terminal
};

// Names a process to the agent: chosen by the host at random, but for the container's first one, by
// whose id whoever comes later finds it. Zero for `machine`.
using ProcessId = std::array<std::byte, 16>;
inline constexpr ProcessId kFirstProcess = {std::byte{1}};

struct Header {
  Kind kind = Kind::refused;
  ProcessId process{};
  std::uint16_t version = kVersion;
};
inline constexpr std::size_t kHeaderSize = 24;
using HeaderBytes = std::array<std::byte, kHeaderSize>;

HeaderBytes encode(const Header& header);
// Error: not a header, or of another version.
Result<Header> decode_header(const HeaderBytes& bytes);

// ---- messages: length (4 bytes, of what follows), type (1 byte), fields

struct Message {
  std::uint8_t type = 0;
  std::string fields;
};

std::string encode_message(std::uint8_t type, const std::string& fields);
template <typename T>
std::string encode(const T& message) {
  return encode_message(T::kType, encode_fields(message));
}
template <typename T>
Result<T> decode(const Message& message) {
  if (message.type != T::kType) return fail("message {}, expected {}", message.type, T::kType);
  return decode_fields<T>(message.fields);
}

// Cuts a stream into messages.
class MessageReader {
 public:
  void append(std::string_view bytes) { bytes_ += bytes; }
  // The next one, or none until more is appended. Error: too long, or without a type.
  Result<std::optional<Message>> next();

 private:
  std::string bytes_;
  std::size_t taken_ = 0;
};

// ---- control

// Bit N is the capability with the number N (linux/capability.h). Docker's default: chown,
// dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
// sys_chroot, mknod, audit_write, setfcap.
inline constexpr std::uint64_t kDefaultCapabilities = 0xa80425fb;
inline constexpr std::uint64_t kAllCapabilities = ~std::uint64_t{0};  // that the kernel has

struct TerminalSize {
  std::uint16_t columns = 80;
  std::uint16_t rows = 24;
  static void fields(auto& message, auto& archive) {
    archive(1, message.columns);
    archive(2, message.rows);
  }
};

// Of setrlimit(2): `resource` is RLIMIT_*.
struct Limit {
  std::uint8_t resource = 0;
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
  static void fields(auto& message, auto& archive) {
    archive(1, message.resource);
    archive(2, message.soft);
    archive(3, message.hard);
  }
};

struct Sysctl {
  std::string name;  // "net.ipv4.ip_forward"
  std::string value;
  static void fields(auto& message, auto& archive) {
    archive(1, message.name);
    archive(2, message.value);
  }
};

// A mount in the container, made in the order of the list.
struct Mount {
  enum class Type : std::uint8_t { bind, tmpfs, last = tmpfs };
  Type type = Type::bind;
  std::string source;   // of bind: a path of the machine
  std::string target;   // a path of the container, made if missing
  std::string options;  // of tmpfs: "size=64m,mode=1777"
  bool read_only = false;
  static void fields(auto& message, auto& archive) {
    archive(1, message.type);
    archive(2, message.source);
    archive(3, message.target);
    archive(4, message.options);
    archive(5, message.read_only);
  }
};

// The surroundings of a container's first process, which is PID 1 in namespaces of its own.
struct Container {
  std::string host_name;
  std::string domain_name;
  std::vector<Mount> mounts;
  std::vector<Sysctl> sysctls;
  bool read_only_root = false;
  bool mask_paths = true;                     // hide and protect parts of /proc and /sys
  bool init = false;                          // PID 1 is a reaper, which starts the process
  std::uint64_t shm_size = 64u << 20;         // bytes of /dev/shm
  std::optional<std::uint64_t> memory_limit;  // bytes
  std::optional<std::uint64_t> swap_limit;    // bytes
  std::optional<std::uint64_t> process_limit;
  std::optional<std::uint64_t> cpu_limit;  // thousandths of a CPU
  static void fields(auto& message, auto& archive) {
    archive(1, message.host_name);
    archive(2, message.domain_name);
    archive(3, message.mounts);
    archive(4, message.sysctls);
    archive(5, message.read_only_root);
    archive(6, message.mask_paths);
    archive(7, message.init);
    archive(8, message.shm_size);
    archive(9, message.memory_limit);
    archive(10, message.swap_limit);
    archive(11, message.process_limit);
    archive(12, message.cpu_limit);
  }
};

// Work of the agent itself with the files of the container, as its overlay has them: without /proc,
// /dev and other mounts, but copies see /etc/hosts, resolv.conf and hostname. In a process of its
// own, which ends with its control connection; its streams are as of files.h.
struct FileTask {
  enum class Kind : std::uint8_t {
    examine,  // says the entry of `path`, or nothing if there is no such file
    pack,     // says `path` and what is below it, by `name`
    unpack,   // writes its input into the directory `path`
    layer,    // says what the container has changed, as a layer of an image
    changes,  // says what the container has changed
    last = changes
  };
  Kind kind = Kind::examine;
  std::string path;         // within the container's root
  std::string name;         // of pack: of its entry; empty: what is in the directory
  bool follow = false;      // a link at the end of the path
  bool keep_owner = false;  // of unpack: the entries' owners, not root
  bool freeze = false;      // the container's processes stand still meanwhile
  static void fields(auto& message, auto& archive) {
    archive(1, message.kind);
    archive(2, message.path);
    archive(3, message.name);
    archive(4, message.follow);
    archive(5, message.keep_owner);
    archive(6, message.freeze);
  }
};

// What becomes of output while its connection is lost: it waits, and the process with it once a
// pipe is full; or it is dropped. Before the first connection it waits.
enum class LostOutput : std::uint8_t { waits, is_dropped, last = is_dropped };

// Starts a process: the container's first (`container` is there), another one beside it, or one of
// the agent (`files` is there; of the rest only `input` and `lost_output` are asked).
struct Start {
  static constexpr std::uint8_t kType = 1;
  std::vector<std::string> arguments;    // the first is the program, looked for in PATH
  std::vector<std::string> environment;  // NAME=value; HOME is added by the user's entry
  std::string working_directory;         // made if missing; empty: /
  std::string user;                      // "name", "uid", "name:group", "uid:gid"; empty: root
  std::vector<std::string> groups;       // additional ones, by name or number
  std::optional<TerminalSize> terminal;  // with one, `terminal` is the only stream
  bool input = false;                    // without it, standard input is /dev/null
  bool keep_input = false;               // the end of a connection is not the end of the input
  LostOutput lost_output = LostOutput::waits;
  std::uint64_t capabilities = kDefaultCapabilities;
  bool no_new_privileges = false;
  std::vector<Limit> limits;
  std::uint32_t umask = 022;
  std::optional<std::uint32_t> oom_score;  // adjustment + 1000
  std::optional<Container> container;
  std::optional<FileTask> files;
  static void fields(auto& message, auto& archive) {
    archive(1, message.arguments);
    archive(2, message.environment);
    archive(3, message.working_directory);
    archive(4, message.user);
    archive(5, message.groups);
    archive(6, message.terminal);
    archive(7, message.input);
    archive(8, message.keep_input);
    archive(9, message.lost_output);
    archive(10, message.capabilities);
    archive(11, message.no_new_privileges);
    archive(12, message.limits);
    archive(13, message.umask);
    archive(14, message.oom_score);
    archive(15, message.container);
    archive(16, message.files);
  }
};

// For who lost the control connection: the same answers again.
struct Follow {
  static constexpr std::uint8_t kType = 2;
  static void fields(auto&, auto&) {}
};

struct Resize {
  static constexpr std::uint8_t kType = 3;
  TerminalSize size;
  static void fields(auto& message, auto& archive) { archive(1, message.size); }
};

struct Signal {
  static constexpr std::uint8_t kType = 4;
  std::uint8_t number = 0;
  static void fields(auto& message, auto& archive) { archive(1, message.number); }
};

struct Started {
  static constexpr std::uint8_t kType = 65;
  std::uint32_t pid = 0;  // in the machine
  static void fields(auto& message, auto& archive) { archive(1, message.pid); }
};

// The answer to what could not be done; of Start, nothing runs.
struct Failed {
  static constexpr std::uint8_t kType = 66;
  enum class Reason : std::uint8_t {
    setup,           // of what surrounds the program: 125 of `docker run`
    not_executable,  // the program cannot be run: 126
    not_found,       // there is no such program: 127
    last = not_found
  };
  Reason reason = Reason::setup;
  std::uint32_t error = 0;  // errno, or 0
  std::string text;
  static void fields(auto& message, auto& archive) {
    archive(1, message.reason);
    archive(2, message.error);
    archive(3, message.text);
  }
};

struct Exited {
  static constexpr std::uint8_t kType = 67;
  std::uint8_t code = 0;       // when no signal ended it
  std::uint8_t signal = 0;     // or 0
  bool out_of_memory = false;  // the kernel killed a process of the container for its memory limit
  static void fields(auto& message, auto& archive) {
    archive(1, message.code);
    archive(2, message.signal);
    archive(3, message.out_of_memory);
  }
};

// ---- machine: each is answered by Done, Failed, or what is named

// Answered by Welcome.
struct Hello {
  static constexpr std::uint8_t kType = 129;
  static void fields(auto&, auto&) {}
};

struct Welcome {
  static constexpr std::uint8_t kType = 193;
  std::uint16_t version = kVersion;
  std::string kernel;        // release
  std::uint64_t uptime = 0;  // nanoseconds since the kernel's start
  static void fields(auto& message, auto& archive) {
    archive(1, message.version);
    archive(2, message.kernel);
    archive(3, message.uptime);
  }
};

struct Done {
  static constexpr std::uint8_t kType = 194;
  static void fields(auto&, auto&) {}
};

struct Route {
  std::string destination;  // "10.1.0.0/16"; empty: all of the gateway's family
  std::string gateway;      // empty: on the link
  static void fields(auto& message, auto& archive) {
    archive(1, message.destination);
    archive(2, message.gateway);
  }
};

struct Interface {
  std::string name;                    // "eth0", "lo"
  std::string mac;                     // "52:54:00:00:00:01"; empty: as it is
  std::uint32_t mtu = 0;               // 0: as it is
  std::vector<std::string> addresses;  // "10.0.0.2/24"; what it had is removed
  std::vector<Route> routes;
  static void fields(auto& message, auto& archive) {
    archive(1, message.name);
    archive(2, message.mac);
    archive(3, message.mtu);
    archive(4, message.addresses);
    archive(5, message.routes);
  }
};

// The identity of a machine that was restored from a template, in one message.
struct Configure {
  static constexpr std::uint8_t kType = 130;
  std::string host_name;
  std::optional<std::uint64_t> clock;  // nanoseconds since 1970
  Bytes seed;                          // for the kernel's random numbers
  std::optional<std::string> hosts;    // /etc/hosts of containers that start later
  std::optional<std::string> resolv_conf;
  std::vector<Interface> interfaces;
  static void fields(auto& message, auto& archive) {
    archive(1, message.host_name);
    archive(2, message.clock);
    archive(3, message.seed);
    archive(4, message.hosts);
    archive(5, message.resolv_conf);
    archive(6, message.interfaces);
  }
};

// Makes the root of the container: an image, and over it a writable layer.
struct MountRoot {
  static constexpr std::uint8_t kType = 131;
  std::string image;  // a block device, "/dev/vda" or "/dev/pmem0"
  std::string image_type = "erofs";
  std::string writable;  // a block device; empty: in memory
  std::string writable_type = "ext4";
  bool read_only = false;          // without a writable layer
  std::string image_options = {};  // of mount(2), "dax=always"
  static void fields(auto& message, auto& archive) {
    archive(1, message.image);
    archive(2, message.image_type);
    archive(3, message.writable);
    archive(4, message.writable_type);
    archive(5, message.read_only);
    archive(6, message.image_options);
  }
};

// Mounts a directory of the host (virtio-fs) at kShares/NAME, for Mount::source.
inline constexpr std::string_view kShares = "/run/shares";
struct MountShare {
  static constexpr std::uint8_t kType = 132;
  std::string tag;
  std::string name;
  static void fields(auto& message, auto& archive) {
    archive(1, message.tag);
    archive(2, message.name);
  }
};

// Answered by Usage.
struct AskUsage {
  static constexpr std::uint8_t kType = 133;
  bool processes = false;  // list them
  static void fields(auto& message, auto& archive) { archive(1, message.processes); }
};

struct RunningProcess {
  std::uint32_t pid = 0;  // in the machine
  std::uint32_t parent = 0;
  std::uint32_t user = 0;
  std::uint64_t cpu_time = 0;    // nanoseconds
  std::uint64_t start_time = 0;  // nanoseconds since the kernel's start
  std::string terminal;          // "pts/0", or empty
  std::string command;           // its arguments, between spaces
  static void fields(auto& message, auto& archive) {
    archive(1, message.pid);
    archive(2, message.parent);
    archive(3, message.user);
    archive(4, message.cpu_time);
    archive(5, message.start_time);
    archive(6, message.terminal);
    archive(7, message.command);
  }
};

// Of the container.
struct Usage {
  static constexpr std::uint8_t kType = 195;
  std::uint64_t memory = 0;        // bytes, without page cache that is not in use
  std::uint64_t memory_limit = 0;  // bytes; of the machine when the container has none
  std::uint64_t cpu_time = 0;      // nanoseconds
  std::uint64_t user_time = 0;
  std::uint64_t system_time = 0;
  std::uint64_t processes = 0;
  std::uint64_t out_of_memory = 0;  // processes that were killed
  std::vector<RunningProcess> list;
  static void fields(auto& message, auto& archive) {
    archive(1, message.memory);
    archive(2, message.memory_limit);
    archive(3, message.cpu_time);
    archive(4, message.user_time);
    archive(5, message.system_time);
    archive(6, message.processes);
    archive(7, message.out_of_memory);
    archive(8, message.list);
  }
};

// Stops or continues all processes of the container.
struct Freeze {
  static constexpr std::uint8_t kType = 134;
  bool frozen = true;
  static void fields(auto& message, auto& archive) { archive(1, message.frozen); }
};

// What was written reaches the disks.
struct Sync {
  static constexpr std::uint8_t kType = 135;
  static void fields(auto&, auto&) {}
};

// Ends all processes, writes the disks, ends the machine: its end is the answer.
struct PowerOff {
  static constexpr std::uint8_t kType = 136;
  bool reboot = false;
  static void fields(auto& message, auto& archive) { archive(1, message.reboot); }
};

}  // namespace vmm::protocol::agent
