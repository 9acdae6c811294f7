// The program `vmm`: finds the command that its words ask for.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "src/cli/commands/commands.h"

namespace vmm::cli {
namespace {

bool asks_for_help(Arguments words) {
  for (const auto& word : words) {
    if (word == "-h" || word == "--help") return true;
    if (word == "--") break;
  }
  return false;
}

int dispatch(Arguments words) {
  if (words.empty()) {
    (void)help({});
    return 1;  // nothing was asked for
  }
  if (words[0].starts_with('-')) return boot(words);
  const auto command = std::ranges::find(commands(), words[0], &Command::name);
  const bool is_engines = is_engine_command(words);
  if (command == commands().end() && !is_engines) return refuse_command(words[0]);
  if (is_engines ? engine_is_asked_for_help(words) : asks_for_help(words.subspan(1))) {
    print_help(words);
    return 0;
  }
  return is_engines ? engine("vmm", words) : command->run(words.subspan(1));
}

// The number of a closed standard stream would be given to the next file that is opened: to a disk,
// and the console would write to it.
bool open_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // check: close-on-exec allowed, standard streams are a child's, too
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) return false;
  }
  return true;
}

// A write past RLIMIT_FSIZE is an error, as one to a full disk, and no end of the machine.
void on_file_size_limit(int signal, siginfo_t* info, void* /*context*/) {
  if (info->si_pid == ::getpid()) return;  // the kernel's, to who wrote
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void survive_file_size_limit() {
  struct sigaction action{};
  if (sigaction(SIGXFSZ, nullptr, &action) < 0 || action.sa_handler == SIG_IGN) return;
  action.sa_sigaction = on_file_size_limit;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGXFSZ, &action, nullptr);
}

}  // namespace

int refuse(const std::string& text) {
  // Not fmt::print(), which throws when standard error is closed or full.
  (void)std::fputs(fmt::format("vmm: {}\n", text).c_str(), stderr);
  return 1;
}

}  // namespace vmm::cli

int main(int argc, char** argv) {
  if (!vmm::cli::open_standard_streams()) return 1;  // nobody can be told
  vmm::cli::survive_file_size_limit();
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    const std::string_view name = argc > 0 ? argv[0] : "";
    if (name.substr(name.rfind('/') + 1) == "docker") return vmm::cli::engine("docker", words);
    return vmm::cli::dispatch(words);
  } catch (const std::exception& error) {
    return vmm::cli::refuse(error.what());
  }
}
