#include "src/engine/runtime/removal.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>

#include "src/base/text.h"
#include "src/base/unix_socket.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kKillPatience{20};
constexpr std::chrono::seconds kLockPatience{10};
constexpr std::chrono::seconds kCommandPatience{1};  // of another command that is about to end

// The lock has no descriptor that poll() takes.
bool wait_for_lock(const std::string& directory, Clock::duration time) {
  constexpr int kTurn = 5;  // milliseconds
  for (const auto deadline = Clock::now() + time; Clock::now() < deadline;) {
    if (!ContainerLock::is_held(directory)) return true;
    (void)::poll(nullptr, 0, kTurn);
  }
  return !ContainerLock::is_held(directory);
}

// Asks for the end, and waits until the supervisor is gone.
bool kill_by_supervisor(const std::string& directory) {
  const auto socket = connect_unix(directory + "/supervisor");
  if (!socket) return false;
  const auto bytes = protocol::agent::encode(wire::Signal{SIGKILL});
  if (!write_all(socket->get(), std::as_bytes(std::span(bytes)))) return false;
  return wait_for_lock(directory, kKillPatience);
}

// Whether there was one.
bool kill_supervisor(const std::string& directory) {
  const auto text = read_text_file(directory + "/pid", 64);
  const auto pid = text ? parse_number(split(*text, '\n')[0], 2, 1u << 22, "pid") : fail("none");
  if (!pid) return false;
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(*pid), 0)));
  // The number may be another process's by now: not while the lock is held by who wrote it.
  return process && ContainerLock::is_held(directory) &&
         read_text_file(fmt::format("/proc/{}/comm", *pid)).value_or("") == "vmm-supervisor\n" &&
         ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) == 0;
}

std::unexpected<Error> in_use(const Container& container) {
  return fail("cannot remove container \"/{}\": it is in use by another command", container.name);
}

}  // namespace

Result<void> end_supervisor(const std::string& directory) {
  (void)kill_supervisor(directory);  // or it has ended
  if (wait_for_lock(directory, kLockPatience)) return {};
  return fail("'{}/lock' is held by a process that does not end", directory);
}

Result<void> remove_container(const std::string& root, const Container& container, Force force) {
  const auto directory = fmt::format("{}/containers/{}", root, container.id);
  auto lock = ContainerLock::take(directory);
  if (!lock) return fail("No such container: {}", container.id);
  if (!*lock) {
    if (force == Force::no && !container.is_running()) return in_use(container);
    if (force == Force::no) {
      return fail(
          "cannot remove container \"/{}\": container is running: stop the container before "
          "removing or force remove",
          container.name);
    }
    if (!kill_by_supervisor(directory)) {
      if (container.is_running() || kill_supervisor(directory)) {
        TRY(end_supervisor(directory));
      } else if (!wait_for_lock(directory, kCommandPatience)) {
        return in_use(container);
      }
    }
    lock = ContainerLock::take(directory);
    if (!lock) return {};  // it was to be removed at its end
    if (!*lock) return fail("removal of container {} is already in progress", container.id);
  }
  auto store = TRY(Store::open(root));
  return Containers(store).remove(container.id);
}

std::uint64_t disk_usage(const std::string& directory) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory, error)) {
    struct stat status{};
    if (::lstat(entry.path().c_str(), &status) == 0) {
      bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
  }
  return bytes;
}

}  // namespace vmm::engine
