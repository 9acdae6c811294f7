// The control protocol of a machine, version 2 (CONTROL.md has all of it, for clients): one JSON
// object a line.
//
//   {"version": 2, "id": 7, "command": "snapshot", "arguments": {"directory": "/a", "live": true}}
//   {"id": 7, "ok": true, "result": {"job": 1}}       {"id": 7, "ok": false, "error": "..."}
//   {"event": "job-finished", "time_ms": 1764480000000, "job": 1, "ok": true, "result": {...}}
//
// Requests of one connection are answered as they are done, each with its id. What takes long is a
// job: its request is answered at once, `wait` later. Version 1 (control_v1.h) is spoken as well.
//
// A command or event is a type here: its name, and its fields, declared once for both directions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/result.h"
#include "src/protocol/json_text.h"

namespace vmm::protocol {

inline constexpr unsigned kControlVersion = 2;
inline constexpr unsigned kOldestControlVersion = 1;
inline constexpr std::size_t kMaxLine = 64u << 10;  // bytes of one request

// ---- commands

template <typename Self>
struct WithoutFields {
  static void fields(auto&, auto&) {}
};

struct Version : WithoutFields<Version> {  // VersionResult
  static constexpr std::string_view kName = "version";
};
struct Status : WithoutFields<Status> {
  static constexpr std::string_view kName = "status";
};
struct Metrics : WithoutFields<Metrics> {
  static constexpr std::string_view kName = "metrics";
};
struct Pause : WithoutFields<Pause> {
  static constexpr std::string_view kName = "pause";
};
struct Resume : WithoutFields<Resume> {
  static constexpr std::string_view kName = "resume";
};
struct PowerButton : WithoutFields<PowerButton> {
  static constexpr std::string_view kName = "power-button";
};
struct Stop : WithoutFields<Stop> {
  static constexpr std::string_view kName = "stop";
};
struct Balloon {
  static constexpr std::string_view kName = "balloon";
  std::string size;  // "512M", as an option has it; whether the machine has one is looked at first
  static void fields(auto& message, auto& archive) { archive("size", message.size); }
};
struct Snapshot {  // JobResult; what the job comes to is Saved
  static constexpr std::string_view kName = "snapshot";
  std::string directory;
  std::string parent;  // directory of an earlier snapshot of this machine; empty: none
  bool live = false;   // the guest runs on while its memory is written
  bool stop = false;   // the machine ends when it is saved
  static void fields(auto& message, auto& archive) {
    archive("directory", message.directory);
    archive("incremental", message.parent);
    archive("live", message.live);
    archive("stop", message.stop);
  }
};
struct WorkingSet : WithoutFields<WorkingSet> {
  static constexpr std::string_view kName = "working-set";
};
// What a component is connected to on the host: `component` is its name in `metrics`, "blk1".
struct WithAttachment {
  std::string component;
  JsonText attachment;  // the keys of the component's option, or its words as a text
  static void fields(auto& message, auto& archive) {
    archive("component", message.component);
    archive("attachment", message.attachment);
  }
};
struct Attach : WithAttachment {
  static constexpr std::string_view kName = "attach";
};
struct Replace : WithAttachment {
  static constexpr std::string_view kName = "replace";
};
struct Detach {
  static constexpr std::string_view kName = "detach";
  std::string component;
  static void fields(auto& message, auto& archive) { archive("component", message.component); }
};
struct Resize {
  static constexpr std::string_view kName = "resize";
  std::string component;
  std::string size;  // "8G": what it has then
  static void fields(auto& message, auto& archive) {
    archive("component", message.component);
    archive("size", message.size);
  }
};
// Ports of the host that reach the guest of a network of kind user.
struct WithPorts {
  std::string component;
  std::vector<std::string> ports;
  static void fields(auto& message, auto& archive) {
    archive("component", message.component);
    archive("ports", message.ports);
  }
};
struct Publish : WithPorts {  // as in the option: "tcp::8080-:80"
  static constexpr std::string_view kName = "publish";
};
struct Unpublish : WithPorts {  // the host's end of each: "tcp::8080"
  static constexpr std::string_view kName = "unpublish";
};
struct Jobs : WithoutFields<Jobs> {  // JobList
  static constexpr std::string_view kName = "jobs";
};
struct Cancel {
  static constexpr std::string_view kName = "cancel";
  std::uint64_t job = 0;
  static void fields(auto& message, auto& archive) { archive("job", message.job); }
};
struct Events : WithoutFields<Events> {  // from now on events come on this connection
  static constexpr std::string_view kName = "events";
};
struct Wait {  // the job's result or error; without a job: Ended
  static constexpr std::string_view kName = "wait";
  std::optional<std::uint64_t> job;
  static void fields(auto& message, auto& archive) { archive("job", message.job); }
};

using Command = std::variant<Version, Status, Metrics, Pause, Resume, PowerButton, Stop, Balloon,
                             Snapshot, WorkingSet, Attach, Replace, Detach, Resize, Publish,
                             Unpublish, Jobs, Cancel, Events, Wait>;
std::string_view name_of(const Command& command);

// ---- results

struct VersionResult {
  std::vector<std::uint64_t> versions;
  std::string program;
  static void fields(auto& message, auto& archive) {
    archive("versions", message.versions);
    archive("program", message.program);
  }
};
struct JobResult {
  std::uint64_t job = 0;
  static void fields(auto& message, auto& archive) { archive("job", message.job); }
};
struct JobState {
  std::uint64_t job = 0;
  std::string kind;                   // "snapshot"
  std::string phase;                  // empty: nothing has begun
  std::uint64_t done = 0, total = 0;  // bytes of the phase; a total of 0 is not known
  bool cancelled = false;             // it is being ended
  static void fields(auto& message, auto& archive) {
    archive("job", message.job);
    archive("kind", message.kind);
    archive("phase", message.phase);
    archive("done", message.done);
    archive("total", message.total);
    archive("cancelled", message.cancelled);
  }
};
struct JobList {
  std::vector<JobState> jobs;
  static void fields(auto& message, auto& archive) { archive("jobs", message.jobs); }
};
struct Saved {
  std::string directory, digest;
  double pause_ms = 0, total_ms = 0;
  std::uint64_t memory_bytes = 0, disk_bytes = 0;
  bool incremental = false, live = false;
  static void fields(auto& message, auto& archive) {
    archive("directory", message.directory);
    archive("digest", message.digest);
    archive("pause_ms", message.pause_ms);
    archive("total_ms", message.total_ms);
    archive("memory_bytes", message.memory_bytes);
    archive("disk_bytes", message.disk_bytes);
    archive("incremental", message.incremental);
    archive("live", message.live);
  }
};

// ---- events

struct Started {
  static constexpr std::string_view kName = "started";
  std::uint64_t reboots = 0;
  static void fields(auto& message, auto& archive) { archive("reboots", message.reboots); }
};
struct Paused : WithoutFields<Paused> {
  static constexpr std::string_view kName = "paused";
};
struct Resumed : WithoutFields<Resumed> {
  static constexpr std::string_view kName = "resumed";
};
struct Panic {
  static constexpr std::string_view kName = "panic";
  std::string reason;
  static void fields(auto& message, auto& archive) { archive("reason", message.reason); }
};
struct Ended {  // the last event; `code` is the program's exit code
  static constexpr std::string_view kName = "ended";
  std::int64_t code = 0;
  std::string reason;
  static void fields(auto& message, auto& archive) {
    archive("code", message.code);
    archive("reason", message.reason);
  }
};
struct NetworkLost {
  static constexpr std::string_view kName = "network-lost";
  std::string device;
  static void fields(auto& message, auto& archive) { archive("device", message.device); }
};
struct NetworkBack {
  static constexpr std::string_view kName = "network-back";
  std::string device;
  static void fields(auto& message, auto& archive) { archive("device", message.device); }
};
struct GuestMemory {  // what the guest gave up to its balloon, or has left, changed
  static constexpr std::string_view kName = "guest-memory";
  std::uint64_t target_bytes = 0, actual_bytes = 0;
  std::optional<std::uint64_t> available_bytes;  // as the guest says
  static void fields(auto& message, auto& archive) {
    archive("target_bytes", message.target_bytes);
    archive("actual_bytes", message.actual_bytes);
    archive("available_bytes", message.available_bytes);
  }
};
struct JobBegan {
  static constexpr std::string_view kName = "job-started";
  std::uint64_t job = 0;
  std::string kind;
  static void fields(auto& message, auto& archive) {
    archive("job", message.job);
    archive("kind", message.kind);
  }
};
struct JobProgressed : JobState {
  static constexpr std::string_view kName = "job-progress";
};
struct JobFinished {
  static constexpr std::string_view kName = "job-finished";
  std::uint64_t job = 0;
  std::string kind;
  bool ok = true;
  std::optional<std::string> error;  // when not ok
  static void fields(auto& message, auto& archive) {
    archive("job", message.job);
    archive("kind", message.kind);
    archive("ok", message.ok);
    archive("error", message.error);
  }
};
struct Missed {  // the reader was too slow: so many events were dropped here
  static constexpr std::string_view kName = "missed";
  std::uint64_t count = 0;
  static void fields(auto& message, auto& archive) { archive("count", message.count); }
};

using Event = std::variant<Started, Paused, Resumed, Panic, Ended, NetworkLost, NetworkBack,
                           GuestMemory, JobBegan, JobProgressed, JobFinished, Missed>;

// ---- lines

// A request as it came; what is wrong with it is answered like any error, by the same id.
struct Request {
  unsigned version = kControlVersion;
  std::optional<std::uint64_t> id;  // of version 2
  Result<Command> command;
};
struct Reply {
  std::optional<std::uint64_t> id;
  bool ok = true;
  std::string result;  // JSON text; empty: none
  std::string error;   // when not ok
};

std::string encode_request(std::uint64_t id, const Command& command);
std::string encode(const Reply& reply);
std::string encode(const Event& event);
Request decode_request(std::string_view line);
Result<Reply> decode_reply(std::string_view line);
// Error: not an event, or one that this version does not know.
Result<Event> decode_event(std::string_view line);
bool is_event(std::string_view line);

// Of a result above.
template <typename T>
std::string to_json(const T& result);
template <typename T>
Result<T> from_json(std::string_view text);

}  // namespace vmm::protocol
