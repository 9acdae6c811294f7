#include "src/cli/commands/fork.h"

#include <sys/mman.h>

#include <span>
#include <vector>

#include "src/base/json.h"
#include "src/base/unique_fd.h"
#include "src/cli/commands/ctl_jobs.h"
#include "src/cli/commands/fork_copy.h"
#include "src/cli/commands/fork_folder.h"
#include "src/cli/config/restored_machine.h"
#include "src/hypervisor/snapshot/remove.h"
#include "src/spec/json.h"

namespace vmm::cli {
namespace {

// The descriptor that a copy finds its configuration at: behind that which says when it runs and
// that which holds the folder.
constexpr int kConfigFd = 5;

// "user,hostfwd=tcp::80{n}-:80" as it is for copy `number`.
std::string filled(std::string words, std::uint64_t number) {
  constexpr std::string_view kPlace = "{n}";
  const auto digits = std::to_string(number);
  for (std::size_t at = 0; (at = words.find(kPlace, at)) != std::string::npos;) {
    words.replace(at, kPlace.size(), digits);
    at += digits.size();
  }
  return words;
}

Result<void> check_options(const CopyOptions& options, std::uint64_t count) {
  for (std::uint64_t i = 1; i <= count; ++i) {
    config::GivenMachine given;
    for (const auto& [key, words] : options) TRY(take_option(given, key, filled(words, i)));
  }
  return {};
}

// What the machine was connected to by its owner, who is the one that forks it: a configuration
// that its copies read as any other.
Result<UniqueFd> own_config(const std::string& directory, const CopyOptions& options) {
  const auto own = TRY(config::own_connections(*TRY(snapshot::open_source(directory))));
  auto object = spec::describe(own);
  for (const auto& [key, words] : options) {
    std::erase_if(object, [&key](const spec::Member& member) { return member.key == key; });
  }
  const auto text = TRY(spec::to_json(spec::Value(std::move(object))));
  UniqueFd file(::memfd_create("config", MFD_CLOEXEC));
  if (!file) return fail_errno("cannot keep the configuration of the copies");
  TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  return file;
}

// All run, or none is left.
Result<std::vector<ForkCopy>> start_copies(const std::string& directory, const ForkFolder& folder,
                                           std::uint64_t count, const CopyOptions& options,
                                           Progress& work) {
  work.begin("starting copies", 0);
  const auto config = TRY(own_config(directory, options));
  const std::vector<std::string> common = {"--restore", directory, "--config",
                                           fmt::format("/proc/self/fd/{}", kConfigFd)};
  std::vector<ForkCopy> copies;
  for (std::uint64_t i = 1; i <= count; ++i) {
    TRY(work.advance(0));
    auto words = common;
    for (const auto& [key, value] : options) {
      words.insert(words.end(), {"--" + key, filled(value, i)});
    }
    copies.push_back(TRY(ForkCopy::start(fmt::format("{}/{}", folder.path(), i), words,
                                         {folder.lock(), config.get()})));
  }
  for (auto& copy : copies) TRY(copy.wait_ready(work));
  return copies;
}

}  // namespace

Result<std::string> fork_machine(const std::string& socket, const std::string& directory,
                                 std::uint64_t count, const CopyOptions& options, Progress& work) {
  TRY(check_options(options, count));
  auto folder = TRY(ForkFolder::create(directory + ".forks"));
  TRY(run_job(socket, protocol::Snapshot{.directory = directory, .live = true}, work));
  raise_descriptor_limit();  // two a copy
  auto started = start_copies(directory, folder, count, options, work);
  if (!started && started.error().code() == kCancelled) {
    // Nobody waits for its error: that it was interrupted is said.
    (void)snapshot::remove(directory);
  }
  auto copies = TRY(std::move(started));
  folder.finish();
  NamedValuesList list;
  for (auto& copy : copies) {
    list.push_back({{"control", copy.control()},
                    {"console", copy.console()},
                    {"pid", static_cast<std::uint64_t>(copy.leave())}});
  }
  return to_json_text(list, 2);
}

}  // namespace vmm::cli
