// pause, unpause, top, stats and port: what is asked of a running container's machine.
#include <nlohmann/json.hpp>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "src/base/file_time.h"
#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/run_options.h"
#include "src/engine/cli/units.h"
#include "src/engine/runtime/agent_machine.h"
#include "src/engine/runtime/container.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;
using Json = nlohmann::ordered_json;

Result<Container> running_container(Containers& containers, const std::string& name) {
  auto container = TRY(containers.find(name));
  if (!container.is_running()) return fail("container {} is not running", container.id);
  return container;
}

// The state changes when the agent has done it.
Result<int> freeze(const Words& words, bool frozen) {
  bool failed = false;
  for (const auto& name : words.names()) {
    const auto done = [&]() -> Result<void> {
      auto store = TRY(open_store());
      Containers containers(store);
      const auto container = TRY(running_container(containers, name));
      const bool is_paused = container.state == ContainerState::paused;
      if (is_paused == frozen) {
        return fail("Container {} is {}paused", name, frozen ? "already " : "not ");
      }
      TRY(ask_agent<agent::Done>(containers.directory(container.id), agent::Freeze{frozen}));
      TRY(containers.set_paused(container.id, frozen));
      print(name + "\n");
      return {};
    }();
    if (!done) print_error(done.error().message());
    failed |= !done;
  }
  return failed ? 1 : 0;
}

std::string clock_text(std::uint64_t nanoseconds) {
  const auto seconds = nanoseconds / kNanosecondsPerSecond;
  return fmt::format("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

struct Sample {
  Container container;
  agent::Usage usage;
  std::int64_t time = 0;  // nanoseconds
};

// Of those that are named, or of all that run.
Result<std::vector<Sample>> sample(const std::vector<std::string>& names, bool all) {
  auto store = TRY(open_store());
  Containers containers(store);
  std::vector<Sample> samples;
  std::vector<Container> wanted;
  for (const auto& name : names) wanted.push_back(TRY(containers.find(name)));
  if (names.empty()) wanted = TRY(containers.list());
  for (auto& container : wanted) {
    Sample one;
    if (container.is_running()) {
      const auto usage =
          ask_agent<agent::Usage>(containers.directory(container.id), agent::AskUsage{});
      if (!usage && names.empty()) continue;  // it has ended meanwhile
      if (!usage) return std::unexpected(usage.error());
      one.usage = *usage;
    } else if (names.empty() && !all) {
      continue;
    }
    one.time = now_in_nanoseconds();
    one.container = std::move(container);
    samples.push_back(std::move(one));
  }
  return samples;
}

// With units of 1024, as Docker has memory.
std::string memory_text(std::uint64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.4g}{}", value, kUnits[unit]);
}

Json row_of(const Sample& sample, const Sample* before, bool whole) {
  const auto& usage = sample.usage;
  double cpu = 0;
  if (before != nullptr && sample.time > before->time && usage.cpu_time > before->usage.cpu_time) {
    cpu = 100.0 * static_cast<double>(usage.cpu_time - before->usage.cpu_time) /
          static_cast<double>(sample.time - before->time);
  }
  const double memory = usage.memory_limit == 0 ? 0
                                                : 100.0 * static_cast<double>(usage.memory) /
                                                      static_cast<double>(usage.memory_limit);
  return {{"CPUPerc", fmt::format("{:.2f}%", cpu)},
          {"Container", whole ? sample.container.id : sample.container.short_id()},
          {"ID", whole ? sample.container.id : sample.container.short_id()},
          {"MemPerc", fmt::format("{:.2f}%", memory)},
          {"MemUsage",
           fmt::format("{} / {}", memory_text(usage.memory), memory_text(usage.memory_limit))},
          {"Name", sample.container.name},
          {"PIDs", fmt::format("{}", usage.processes)}};
}

}  // namespace

Result<int> pause(const Words& words) { return freeze(words, true); }
Result<int> unpause(const Words& words) { return freeze(words, false); }

Result<int> top(const Words& words) {
  auto store = TRY(open_store());
  Containers containers(store);
  const auto container = TRY(running_container(containers, words.names()[0]));
  const auto usage =
      TRY(ask_agent<agent::Usage>(containers.directory(container.id), agent::AskUsage{true}));
  std::vector<std::string> lines = {"UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD"};
  for (const auto& process : usage.list) {
    lines.push_back(fmt::format("{}\t{}\t{}\t0\t{}\t{}\t{}\t{}", process.user, process.pid,
                                process.parent,
                                local_time(container.started / kNanosecondsPerSecond).substr(11, 5),
                                one_line(process.terminal.empty() ? "?" : process.terminal),
                                clock_text(process.cpu_time), one_line(process.command)));
  }
  print(align_columns(lines));
  return 0;
}

Result<int> stats(const Words& words) {
  const bool once = words.has("no-stream");
  RowFormat format;
  format.format = words.text("format");
  format.table = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.PIDs}}";
  format.headers = {{"CPUPerc", "CPU %"}, {"Container", "CONTAINER"},        {"ID", "CONTAINER ID"},
                    {"MemPerc", "MEM %"}, {"MemUsage", "MEM USAGE / LIMIT"}, {"Name", "NAME"},
                    {"PIDs", "PIDS"}};
  const bool screen = !once && format.format.empty() && ::isatty(STDOUT_FILENO) != 0;
  auto before = TRY(sample(words.names(), words.has("all")));
  for (;;) {
    constexpr int kPeriod = 1000;  // milliseconds
    (void)::poll(nullptr, 0, kPeriod);
    const auto current = TRY(sample(words.names(), words.has("all")));
    std::vector<Json> rows;
    for (const auto& one : current) {
      const auto last = std::ranges::find_if(
          before, [&one](const Sample& other) { return other.container.id == one.container.id; });
      rows.push_back(row_of(one, last == before.end() ? nullptr : &*last, words.has("no-trunc")));
    }
    if (screen) fmt::print("\x1b[H\x1b[2J");
    print(TRY(format_rows(format, rows)));
    if (once || std::fflush(stdout) != 0) return 0;
    before = current;
  }
}

Result<int> port(const Words& words) {
  auto store = TRY(open_store());
  const auto container = TRY(Containers(store).find(words.names()[0]));
  const bool one = words.names().size() > 1;
  auto wanted = one ? words.names()[1] : "";
  if (one && !wanted.contains('/')) wanted += "/tcp";
  bool found = false;
  for (const auto& published : container.spec.ports) {
    const auto inside = fmt::format("{}/{}", published.container_port, published.protocol);
    if (!container.is_running() || (one && inside != wanted)) continue;
    found = true;
    const auto text = to_text(published);
    const auto outside = text.substr(0, text.find("->"));
    print(one ? outside + "\n" : fmt::format("{} -> {}\n", inside, outside));
  }
  if (one && !found) {
    return fail("no public port '{}' published for {}", words.names()[1], words.names()[0]);
  }
  return 0;
}

}  // namespace vmm::engine::cli
