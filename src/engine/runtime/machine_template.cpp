#include "src/engine/runtime/machine_template.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "src/base/file_time.h"
#include "src/base/text.h"
#include "src/engine/runtime/detached.h"
#include "src/engine/runtime/monitor.h"
#include "src/engine/runtime/removal.h"
#include "src/engine/runtime/started_machine.h"
#include "src/engine/store/digest.h"
#include "src/protocol/control_client.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kKept = 8;                  // templates; a machine's size is in its name
constexpr std::int64_t kPause = 600'000'000'000;  // nanoseconds from a failure to the next try
constexpr std::int64_t kGivenUp = 144 * kPause;   // of templates that do not work: a day
constexpr std::size_t kLongestReason = 512;
constexpr std::chrono::seconds kSavePatience{120};
constexpr int kBeside = 10;  // nice(2): whoever waits goes first
constexpr std::string_view kLock = ".lock", kWork = ".work", kPartial = ".partial",
                           kFailed = ".failed";

// Which file it is, without reading it: one that is replaced, or written, is another.
Result<std::string> identity(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot read '{}'", path);
  return fmt::format("{}:{}:{}:{}", status.st_dev, status.st_ino, status.st_size,
                     nanoseconds(status.st_mtim));
}

bool is_file(const std::string& path, int file) {
  struct stat named{}, opened{};
  return ::stat(path.c_str(), &named) == 0 && ::fstat(file, &opened) == 0 &&
         named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

// Nanoseconds since 1970; 0: it is not there.
std::int64_t time_of(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) < 0 ? 0 : nanoseconds(status.st_mtim);
}

std::string manifest_of(const std::string& path) { return path + "/manifest.json"; }

void remove_all(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);  // what cannot be removed is in nobody's way
}

// What the lock says while nothing is known yet: on a disk that is full at the end, there is room
// for the reason.
constexpr char kUnknown = '?';

bool has_failed_lately(int lock) {
  struct stat status{};
  char first = kUnknown;
  return ::fstat(lock, &status) == 0 && ::pread(lock, &first, 1, 0) == 1 && first != kUnknown &&
         now_in_nanoseconds() - nanoseconds(status.st_mtim) < kPause;
}

void write_note(int lock, const std::string& text) {
  (void)!::ftruncate(lock, 1);
  (void)!::pwrite(lock, text.data(), text.size(), 0);
}

void note_outcome(int lock, const Result<void>& made) {
  if (!made) return write_note(lock, made.error().message() + "\n");
  (void)!::ftruncate(lock, 0);
}

Result<void> save_machine(const TemplateRecipe& recipe, const std::string& work,
                          const std::string& path, int lock) {
  remove_all(work);
  if (::mkdir(work.c_str(), 0700) < 0) return fail_errno("cannot create '{}'", work);
  // Paths of sockets are short.
  if (::chdir(work.c_str()) < 0) return fail_errno("cannot enter '{}'", work);
  auto machine = TRY(StartedMachine::start(recipe.monitor, recipe.words, work, lock));
  TRY(machine.wait_for_agent(kBootPatience));
  auto control = TRY(protocol::ControlClient::connect("control"));
  const auto job = TRY(control.call<protocol::JobResult>(
      protocol::Snapshot{.directory = path, .parent = "", .live = false, .stop = true}));
  TRY(control.call(protocol::Wait{job.job}));
  return machine.wait(kSavePatience);
}

// A process of its own, which nobody waits for.
bool make_alone(const MachineTemplates& templates, const TemplateRecipe& recipe) {
  for (int number = 1; number < NSIG; ++number) (void)::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  (void)::signal(SIGPIPE, SIG_IGN);
  (void)::setpriority(PRIO_PROCESS, 0, kBeside);
  return templates.make(recipe).has_value();
}

}  // namespace

std::string given_up_warning(std::string_view why) {
  return fmt::format(
      "containers start slowly: their machines boot, as they did not go on from templates: {}; "
      "that is tried again after a day, or after `vmm system prune`",
      why);
}

std::string processor_in(std::string_view cpuinfo) {
  constexpr std::array<std::string_view, 7> kLines = {
      "vendor_id",   "flags",    "CPU implementer", "CPU architecture",
      "CPU variant", "CPU part", "Features"};
  std::string text;
  // Of the first processor: the others have the same, or the machine would not run on them.
  for (const auto line : split(cpuinfo.substr(0, cpuinfo.find("\n\n")), '\n')) {
    const auto name = line.substr(0, line.find_first_of("\t:"));
    if (std::ranges::find(kLines, name) != kLines.end()) text += fmt::format("{}\n", line);
  }
  return text;
}

// The kernel makes the text of each processor as it is read, which takes time where there are many.
std::string host_processor() {
  std::string text;
  const auto file = open_file("/proc/cpuinfo", O_RDONLY);
  std::array<char, 4096> buffer;
  while (file && !text.contains("\n\n")) {
    const ssize_t n = ::read(file->get(), buffer.data(), buffer.size());
    if (n <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  return processor_in(text);
}

Result<TemplateRecipe> template_recipe(const ContainerSpec& spec, const MachineFiles& files,
                                       const std::string& monitor, const std::string& processor) {
  TemplateRecipe recipe{"", monitor, template_words(spec, files)};
  // The files count as what they are, not by their paths.
  const MachineFiles nameless{"", "", files.append};
  auto text = fmt::format("2\n{}\n{}", fmt::join(template_words(spec, nameless), "\n"), processor);
  for (const auto& file : {files.kernel, files.initramfs, monitor}) {
    text += TRY(identity(file)) + "\n";
  }
  recipe.name = Digest::of(text).hex().substr(0, 32);
  return recipe;
}

std::optional<MachineTemplates::Found> MachineTemplates::find(const std::string& name) const {
  if (!is_there(name) || !why_given_up(name).empty()) return std::nullopt;
  Found found{path(name), identity(manifest_of(path(name))).value_or("")};
  (void)::utimensat(AT_FDCWD, found.path.c_str(), nullptr, 0);
  return found;
}

bool MachineTemplates::is_there(const std::string& name) const {
  return ::access(manifest_of(path(name)).c_str(), R_OK) == 0;
}

void MachineTemplates::note_success(const std::string& name) const {
  (void)::unlink((path(name) + std::string(kFailed)).c_str());  // or there is none
}

// Starts that go on from one template at once fail at once: that counts as one failure, and the
// template that another of them has had made meanwhile stays.
bool MachineTemplates::note_failure(const std::string& name, const Found& which,
                                    std::string why) const {
  if (identity(manifest_of(path(name))).value_or("") == which.identity) remove(name);
  const auto file = open_file(path(name) + std::string(kFailed), O_RDWR | O_CREAT);
  if (!file || ::flock(file->get(), LOCK_EX) < 0) return false;
  const auto before = read_text_file(path(name) + std::string(kFailed)).value_or("");
  const auto lines = split(before, '\n');
  const std::string last(lines.size() < 2 ? "" : lines[lines.size() - 2]);
  if (last.starts_with(which.identity + " ")) return false;
  std::ranges::replace(why, '\n', ' ');
  const auto text = fmt::format("{}{}{} {}\n", last, last.empty() ? "" : "\n", which.identity,
                                why.substr(0, kLongestReason));
  (void)!::ftruncate(file->get(), 0);
  return write_all_at(file->get(), std::as_bytes(std::span(text)), 0) && !last.empty();
}

std::string MachineTemplates::why_given_up(const std::string& name) const {
  const auto file = path(name) + std::string(kFailed);
  const auto text = read_text_file(file).value_or("");
  const auto lines = split(text, '\n');
  constexpr std::size_t kTwo = 3;  // with what is behind the last line's end
  if (lines.size() < kTwo || now_in_nanoseconds() - time_of(file) > kGivenUp) return "";
  return std::string(lines[1].substr(std::min(lines[1].find(' ') + 1, lines[1].size())));
}

std::vector<std::string> MachineTemplates::warnings() const {
  std::vector<std::string> all;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const auto name = entry.path().filename().string();
    if (!name.ends_with(kFailed)) continue;
    const auto why = why_given_up(name.substr(0, name.size() - kFailed.size()));
    if (!why.empty()) all.push_back(given_up_warning(why));
  }
  return all;
}

void MachineTemplates::make_beside(const TemplateRecipe& recipe) const {
  (void)start_detached("vmm-template", -1,
                       [&](const UniqueFd&) { return make_alone(*this, recipe); });
}

Result<void> MachineTemplates::make(const TemplateRecipe& recipe) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return fail("cannot create '{}': {}", folder_, error.message());
  const auto target = path(recipe.name);
  const auto lock = TRY(open_file(target + std::string(kLock), O_RDWR | O_CREAT));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) < 0) return {};
  // Pruned before it was locked: no lock any more. The next start makes one.
  if (!is_file(target + std::string(kLock), lock.get())) return {};
  if (is_there(recipe.name) || has_failed_lately(lock.get()) ||
      !why_given_up(recipe.name).empty()) {
    return {};
  }
  const auto work = target + std::string(kWork);
  write_note(lock.get(), {kUnknown});
  remove(recipe.name);  // a part of one, in the way
  const auto made = save_machine(recipe, work, target, lock.get());
  remove_all(work);
  note_outcome(lock.get(), made);
  if (made) (void)prune(kKept);
  return made;
}

void MachineTemplates::remove(const std::string& name) const {
  // Its name goes at once: nobody finds a part of it.
  const auto gone = fmt::format("{}.{}.removed", path(name), ::getpid());
  remove_all(::rename(path(name).c_str(), gone.c_str()) == 0 ? gone : path(name));
}

std::vector<std::string> MachineTemplates::names() const {
  std::vector<std::pair<std::int64_t, std::string>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const auto name = entry.path().filename().string();
    if (!name.contains('.')) found.emplace_back(time_of(path(name)), name);
  }
  std::ranges::sort(found, std::greater{});
  std::vector<std::string> names;
  for (auto& [time, name] : found) names.push_back(std::move(name));
  return names;
}

MachineTemplates::Usage MachineTemplates::usage() const {
  Usage usage;
  for (const auto& name : names()) {
    ++usage.count;
    usage.bytes += disk_usage(path(name));
  }
  return usage;
}

std::uint64_t MachineTemplates::prune(std::size_t keep) const {
  std::uint64_t freed = 0;
  const auto all = names();
  for (std::size_t i = keep; i < all.size(); ++i) {
    freed += disk_usage(path(all[i]));
    remove(all[i]);
  }
  // Whose maker lives is held.
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const auto name = entry.path().filename().string();
    const auto stem = name.substr(0, name.find('.'));
    if (name == stem) continue;
    if (name.ends_with(".removed")) {
      freed += disk_usage(entry.path());
      remove_all(entry.path());
    }
    const bool is_old = now_in_nanoseconds() - time_of(entry.path()) > kGivenUp;
    if (name.ends_with(kFailed) && (keep == 0 || is_old)) (void)::unlink(entry.path().c_str());
    if (!name.ends_with(kLock) || is_there(stem)) continue;
    const UniqueFd lock(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
    if (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) < 0) continue;
    if (!is_file(entry.path(), lock.get())) continue;  // another one took it away
    for (const auto end : {kWork, kPartial}) remove_all(path(stem) + std::string(end));
    if (keep == 0 || !has_failed_lately(lock.get())) (void)::unlink(entry.path().c_str());
  }
  return freed;
}

}  // namespace vmm::engine
