#include "guest-images/agent/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "src/base/text.h"

namespace vmm::agent {
namespace {

using protocol::agent::RunningProcess;
using protocol::agent::Usage;

constexpr std::uint64_t kPeriod = 100'000;  // microseconds of cpu.max
constexpr std::size_t kMaxListed = 4096;

std::uint64_t to_number(std::string_view text) {
  return parse_number(text, 0, ~std::uint64_t{0}, "number").value_or(0);
}

// Of lines "key value".
std::uint64_t value_of(std::string_view text, std::string_view key) {
  for (const std::string_view line : split(text, '\n')) {
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ' ') {
      return to_number(line.substr(key.size() + 1));
    }
  }
  return 0;
}

std::string_view trimmed(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// Of /proc/PID: none when it has ended meanwhile.
std::optional<RunningProcess> read_process(std::string_view pid) {
  const std::string folder = fmt::format("/proc/{}", pid);
  const auto stat = read_text_file(folder + "/stat", 4096);
  const auto arguments = read_text_file(folder + "/cmdline", 1u << 20);
  struct stat owner{};
  if (!stat || !arguments || ::stat(folder.c_str(), &owner) < 0) return std::nullopt;
  // The name, in parentheses, may hold anything.
  const auto open = stat->find('('), close = stat->rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open) return std::nullopt;
  const auto fields = split(std::string_view(*stat).substr(close + 1), ' ');
  // Numbers of proc(5), less two: the field after ')' is empty, then comes the third.
  constexpr std::size_t kParent = 2, kTerminal = 5, kUser = 12, kSystem = 13, kStart = 20;
  if (fields.size() <= kStart) return std::nullopt;
  const std::uint64_t tick = 1'000'000'000u / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  RunningProcess process;
  process.pid = static_cast<std::uint32_t>(to_number(pid));
  process.parent = static_cast<std::uint32_t>(to_number(fields[kParent]));
  process.user = owner.st_uid;
  process.cpu_time = (to_number(fields[kUser]) + to_number(fields[kSystem])) * tick;
  process.start_time = to_number(fields[kStart]) * tick;
  constexpr std::uint64_t kPtsMajor = 136;
  if (const std::uint64_t terminal = to_number(fields[kTerminal]); terminal >> 8 == kPtsMajor) {
    process.terminal = fmt::format("pts/{}", terminal & 0xff);
  }
  process.command = *arguments;
  while (process.command.ends_with('\0')) process.command.pop_back();
  std::ranges::replace(process.command, '\0', ' ');
  if (process.command.empty()) process.command = stat->substr(open + 1, close - open - 1);
  process.command.resize(std::min<std::size_t>(process.command.size(), 512));
  return process;
}

}  // namespace

Result<Cgroup> Cgroup::create(const std::string& path) {
  const std::string parent = path.substr(0, path.rfind('/'));
  // One by one: a kernel may lack one, and only who asks for its limit is to hear of it.
  for (const std::string_view controller : {"+memory", "+pids", "+cpu", "+io", "+cpuset"}) {
    const auto file = TRY(open_file(parent + "/cgroup.subtree_control", O_WRONLY));
    (void)write_all(file.get(), std::as_bytes(std::span(controller)));
  }
  if (::mkdir(path.c_str(), 0755) < 0 && errno != EEXIST)
    return fail_errno("cannot make '{}'", path);
  return Cgroup(path, TRY(open_file(path, O_RDONLY | O_DIRECTORY)));
}

Result<void> Cgroup::write(const char* name, const std::string& value) const {
  const std::string path = path_ + "/" + name;
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file || !write_all(file.get(), std::as_bytes(std::span(value)))) {
    return fail_errno("cannot set the limit {} to {}", name, value);
  }
  return {};
}

std::string Cgroup::read(const char* name) const {
  return read_text_file(path_ + "/" + name).value_or("");
}

Result<void> Cgroup::set_limits(const protocol::agent::Container& container) const {
  const auto set = [&](const char* file, const std::optional<std::uint64_t>& limit) {
    if (limit) return write(file, fmt::format("{}", *limit));
    (void)write(file, "max");  // without its controller there is no limit either
    return Result<void>();
  };
  TRY(set("memory.max", container.memory_limit));
  TRY(set("memory.swap.max", container.swap_limit));
  TRY(set("pids.max", container.process_limit));
  if (container.cpu_limit) {
    return write("cpu.max", fmt::format("{} {}", *container.cpu_limit * (kPeriod / 1000), kPeriod));
  }
  (void)write("cpu.max", fmt::format("max {}", kPeriod));
  return {};
}

Result<void> Cgroup::freeze(bool frozen, std::chrono::milliseconds patience) const {
  TRY(write("cgroup.freeze", frozen ? "1" : "0"));
  return frozen ? wait_until_frozen(patience) : Result<void>();
}

// Each process stops on its own way back to user space. The kernel tells of the last one by an
// event of the file.
Result<void> Cgroup::wait_until_frozen(std::chrono::milliseconds patience) const {
  using std::chrono::steady_clock;
  const auto end = steady_clock::now() + patience;
  const auto events = TRY(open_file(path_ + "/cgroup.events", O_RDONLY));
  for (;;) {
    std::array<char, 256> text{};
    const ssize_t n = ::pread(events.get(), text.data(), text.size(), 0);
    if (n < 0) return fail_errno("cannot read '{}/cgroup.events'", path_);
    if (value_of({text.data(), static_cast<std::size_t>(n)}, "frozen") == 1) return {};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - steady_clock::now());
    if (left.count() <= 0) {
      return fail("a process of the container did not stop within {:g} s",
                  std::chrono::duration<double>(patience).count());
    }
    pollfd change{events.get(), POLLPRI, 0};
    (void)::poll(&change, 1, static_cast<int>(left.count()));  // the loop looks again
  }
}

std::uint64_t Cgroup::out_of_memory() const { return value_of(read("memory.events"), "oom_kill"); }

Usage Cgroup::usage() const {
  Usage usage;
  const std::uint64_t current = to_number(trimmed(read("memory.current")));
  usage.memory = current - std::min(current, value_of(read("memory.stat"), "inactive_file"));
  const std::string limit = read("memory.max");
  usage.memory_limit = limit.starts_with("max") ? 0 : to_number(trimmed(limit));
  if (usage.memory_limit == 0) {
    usage.memory_limit = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  const std::string cpu = read("cpu.stat");
  usage.cpu_time = value_of(cpu, "usage_usec") * 1000;
  usage.user_time = value_of(cpu, "user_usec") * 1000;
  usage.system_time = value_of(cpu, "system_usec") * 1000;
  usage.processes = to_number(trimmed(read("pids.current")));
  usage.out_of_memory = out_of_memory();
  return usage;
}

std::vector<RunningProcess> Cgroup::processes() const {
  std::vector<RunningProcess> list;
  const std::string pids = read("cgroup.procs");
  for (const std::string_view pid : split(pids, '\n')) {
    if (list.size() == kMaxListed) break;
    if (pid.empty()) continue;
    if (auto process = read_process(pid)) list.push_back(std::move(*process));
  }
  return list;
}

}  // namespace vmm::agent
