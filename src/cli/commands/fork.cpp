#include "src/cli/commands/fork.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/protocol/control.h"

namespace vmm::cli {
namespace {

struct Copy {
  pid_t process = 0;
  std::string stem;  // of its files' paths
  UniqueFd ready;    // says when it runs; ends when it failed
};

// The descriptor that a copy finds its end of the pipe at.
constexpr int kReadyFd = 3;

Result<Copy> start(const std::string& directory, const std::string& stem) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("pipe");
  Copy copy{0, stem, UniqueFd(ends[0])};
  const UniqueFd ready(ends[1]);
  std::vector<std::string> words = {"vmm",
                                    "--restore",
                                    directory,
                                    "--control",
                                    stem + ".control",
                                    "--serial",
                                    "file:" + stem + ".console",
                                    "--name",
                                    std::filesystem::path(stem).filename().string(),
                                    "--ready-fd",
                                    std::to_string(kReadyFd)};
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string log = stem + ".log";

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawn_file_actions_adddup2(&actions, ready.get(), kReadyFd);
  const int error =
      ::posix_spawn(&copy.process, "/proc/self/exe", &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    errno = error;
    return fail_errno("cannot start a copy of the machine");
  }
  return copy;
}

Result<void> wait_ready(const Copy& copy) {
  char byte = 0;
  ssize_t n = 0;
  do {
    n = ::read(copy.ready.get(), &byte, 1);
  } while (n < 0 && errno == EINTR);
  if (n == 1) return {};
  const auto log = read_text_file(copy.stem + ".log");
  std::string why = log && !log->empty() ? *log : "it ended";
  why.resize(why.find_last_not_of('\n') + 1);
  return fail("a copy does not start: {}", why);
}

}  // namespace

Result<std::string> fork_machine(const std::string& socket, const std::string& directory,
                                 std::uint64_t count) {
  const std::string folder = directory + ".forks";
  std::error_code error;
  if (!std::filesystem::create_directory(folder, error)) {
    return fail("cannot make '{}': {}", folder, error ? error.message() : "it exists");
  }
  auto forks = [&]() -> Result<std::vector<Copy>> {
    TRY(protocol::call(socket, {"snapshot", directory, {{"live", "true"}}}));
    std::vector<Copy> copies;
    Result<void> result;
    for (std::uint64_t i = 1; i <= count && result; ++i) {
      auto copy = start(directory, fmt::format("{}/{}", folder, i));
      if (copy) {
        copies.push_back(std::move(*copy));
      } else {
        result = std::unexpected(copy.error());
      }
    }
    for (const auto& copy : copies) {
      if (result) result = wait_ready(copy);
    }
    if (result) return copies;
    for (const auto& copy : copies) {
      ::kill(copy.process, SIGKILL);
      ::waitpid(copy.process, nullptr, 0);
    }
    return std::unexpected(result.error());
  }();
  if (!forks) {
    std::filesystem::remove_all(folder, error);
    return std::unexpected(forks.error());
  }
  nlohmann::json list = nlohmann::json::array();
  for (const auto& copy : *forks) {
    list.push_back({{"pid", copy.process},
                    {"control", copy.stem + ".control"},
                    {"console", copy.stem + ".console"}});
  }
  return list.dump(2);
}

}  // namespace vmm::cli
