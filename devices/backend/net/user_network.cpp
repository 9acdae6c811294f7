#include "devices/backend/net/user_network.h"

#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <vector>

#include "src/base/log.h"

namespace vmm::net {
namespace {

constexpr std::string_view kProgram = "vmm-net";
constexpr int kSocketNumber = 3;

bool is_executable(const std::string& path) { return ::access(path.c_str(), X_OK) == 0; }

class SpawnActions {
 public:
  SpawnActions() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
  }
  ~SpawnActions() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnActions(const SpawnActions&) = delete;

  Result<pid_t> run(const std::string& program, const std::vector<std::string>& arguments,
                    int socket) {
    // The guest's console is on the standard streams: the child has no business there. Errors it
    // may tell. Its own session keeps the terminal's signals away from it.
    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    sigdelset(&defaults, SIGKILL);
    sigdelset(&defaults, SIGSTOP);
    int code = ::posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDWR, 0);
    if (code == 0) code = ::posix_spawn_file_actions_adddup2(&actions_, 0, 1);
    if (code == 0) code = ::posix_spawn_file_actions_adddup2(&actions_, socket, kSocketNumber);
    if (code == 0) code = ::posix_spawnattr_setsigmask(&attributes_, &none);
    if (code == 0) code = ::posix_spawnattr_setsigdefault(&attributes_, &defaults);
    if (code == 0) {
      code = ::posix_spawnattr_setflags(
          &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    }
    std::vector<char*> argv;
    argv.push_back(const_cast<char*>(program.c_str()));
    for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    pid_t process = 0;
    if (code == 0) {
      code =
          ::posix_spawn(&process, program.c_str(), &actions_, &attributes_, argv.data(), environ);
    }
    if (code != 0) return fail_errno_text(code, fmt::format("cannot start '{}'", program));
    return process;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

Result<std::string> UserNetwork::find_program() {
  if (const char* folder = std::getenv("VMM_LIBEXEC"); folder != nullptr && *folder != 0) {
    auto path = fmt::format("{}/{}", folder, kProgram);
    if (is_executable(path)) return path;
    return fail("the network program '{}' cannot be run: VMM_LIBEXEC names its folder", path);
  }
  std::array<char, PATH_MAX> link;
  const ssize_t n = ::readlink("/proc/self/exe", link.data(), link.size());
  if (n < 0) return fail_errno("cannot read /proc/self/exe");
  std::string folder(link.data(), static_cast<std::size_t>(n));
  folder.resize(folder.rfind('/'));
  const std::string own = folder;
  for (const auto* place : {"", "/../libexec/vmm"}) {
    auto path = fmt::format("{}{}/{}", own, place, kProgram);
    if (is_executable(path)) return path;
  }
  // A build tree: devices/..., tests/... and src/cli/ are beside src/user_net/ at some height.
  while (!folder.empty()) {
    auto path = fmt::format("{}/src/user_net/{}", folder, kProgram);
    if (is_executable(path)) return path;
    folder.resize(folder.rfind('/'));
  }
  return fail("the network program '{0}' is missing: it belongs to {1}/../libexec/vmm/{0}",
              kProgram, own);
}

Result<std::unique_ptr<UserNetwork>> UserNetwork::spawn(const user_net::Config& config) {
  TRY(config.check());
  const auto program = TRY(find_program());
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return fail_errno("cannot create a network socket");
  }
  UniqueFd own(ends[0]);
  const UniqueFd other(ends[1]);
  auto arguments = user_net::to_arguments(config);
  arguments.insert(arguments.begin(), std::to_string(kSocketNumber));
  const pid_t process = TRY(SpawnActions().run(program, arguments, other.get()));
  return std::unique_ptr<UserNetwork>(new UserNetwork(std::move(own), process));
}

UserNetwork::UserNetwork(UniqueFd socket, pid_t process)
    : SocketBackend(std::move(socket)), process_(process) {}

UserNetwork::~UserNetwork() {
  shut();
  if (process_ == 0) return;
  // It ends by itself when its socket does; a stuck one is ended.
  ::kill(process_, SIGKILL);
  int status;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
}

void UserNetwork::closed() {
  ::kill(process_, SIGKILL);  // it closed its socket, so it is ending or useless
  int status = 0;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = 0;
  if (WIFSIGNALED(status)) {
    log::error("the network process ended by signal {}: the guest's network is down",
               WTERMSIG(status));
  } else {
    log::error("the network process ended with code {}: the guest's network is down",
               WEXITSTATUS(status));
  }
}

}  // namespace vmm::net
