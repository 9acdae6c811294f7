#include "src/engine/runtime/container_machine.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "src/engine/runtime/agent_machine.h"
#include "src/engine/runtime/guest_request.h"

namespace vmm::engine {
namespace {

namespace agent = protocol::agent;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kLockPatience{30};  // of one that starts or ends
constexpr std::chrono::seconds kBootPatience{120};
constexpr std::chrono::seconds kSyncPatience{3600};  // a full memory of writes, on a slow disk
constexpr int kPowerPatience = 60'000;               // milliseconds
constexpr int kRetry = 10;                           // milliseconds

}  // namespace

Result<void> make_disks(Store& store, const Container& container) {
  const auto directory = Containers(store).directory(container.id);
  const auto image = TRY(Catalog(store).by_id(container.image));
  if (!image) return fail("No such image: {}", container.image.text());
  const auto text = TRY(disk_descriptor(store.content(), *image));
  const auto file = TRY(open_file(directory + "/image.vmdk", O_WRONLY | O_CREAT | O_TRUNC));
  TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  const auto writable = directory + "/writable.img";
  if (::access(writable.c_str(), F_OK) == 0) return {};
  const auto partial = writable + ".partial";
  TRY(make_writable_layer(store.root(), partial));
  if (::rename(partial.c_str(), writable.c_str()) < 0) {
    return fail_errno("cannot make '{}'", writable);
  }
  return {};
}

Result<std::unique_ptr<ContainerMachine>> ContainerMachine::open(const std::string& root,
                                                                 const std::string& name) {
  std::unique_ptr<ContainerMachine> machine(new ContainerMachine);
  // The lock has no descriptor that poll() takes.
  for (const auto deadline = Clock::now() + kLockPatience; !TRY(machine->take(root, name));) {
    if (Clock::now() > deadline) {
      return fail("container {} is in use by another command", machine->container_.id);
    }
    (void)::poll(nullptr, 0, kRetry);
  }
  if (machine->lock_) TRY(machine->start(root));
  return machine;
}

// Whether it runs, or is ours.
Result<bool> ContainerMachine::take(const std::string& root, const std::string& name) {
  auto store = TRY(Store::open(root));
  Containers containers(store);
  container_ = TRY(containers.find(name));
  directory_ = containers.directory(container_.id);
  if (container_.is_running()) return true;
  lock_ = TRY(ContainerLock::take(directory_));
  if (!lock_) return false;
  // It may have run, or gone, before the lock was ours.
  container_ = TRY(containers.find(container_.id));
  return true;
}

Result<void> ContainerMachine::start(const std::string& root) {
  {
    auto store = TRY(Store::open(root));
    TRY(make_disks(store, container_));
  }
  const auto program = TRY(find_monitor());
  const auto machine_files = TRY(find_machine_files(container_.spec.kernel));
  auto unconnected = container_;
  unconnected.spec.network = "none";
  monitor_ = TRY(Monitor::start(program, monitor_arguments(unconnected, machine_files), directory_,
                                lock_->fd()));
  TRY(wait_for_agent());
  TRY(ask_agent<agent::Done>(directory_, mount_request(container_)));
  return {};
}

Result<void> ContainerMachine::wait_for_agent() {
  const auto deadline = Clock::now() + kBootPatience;
  for (;;) {
    const auto answer = ask_agent<agent::Welcome>(directory_, agent::Hello{});
    if (answer) return {};
    if (has_ended(kRetry)) {
      const auto words = said();
      return fail("{}", words.empty() ? "the machine ended by itself" : words);
    }
    if (Clock::now() > deadline) return std::unexpected(answer.error());
  }
}

bool ContainerMachine::has_ended(int milliseconds) const {
  pollfd ended{monitor_.pidfd.get(), POLLIN, 0};
  return ::poll(&ended, 1, milliseconds) > 0;
}

// Its last line.
std::string ContainerMachine::said() const {
  std::array<char, 4096> buffer;
  const ssize_t n = ::read(monitor_.errors.get(), buffer.data(), buffer.size());
  std::string text(buffer.data(), n > 0 ? static_cast<std::size_t>(n) : 0);
  while (text.ends_with('\n')) text.pop_back();
  text.erase(0, text.rfind('\n') + 1);
  if (text.starts_with("vmm: ")) text.erase(0, 5);
  return text;
}

Result<void> ContainerMachine::finish() {
  if (!monitor_.pidfd) return {};
  TRY(ask_agent<agent::Done>(directory_, agent::Sync{}, kSyncPatience));
  // Its end is the answer.
  (void)ask_agent_message(directory_, protocol::agent::encode(agent::PowerOff{}));
  if (!has_ended(kPowerPatience)) return fail("the container's machine does not end");
  const auto words = said();
  const int status = reap();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  if (WIFSIGNALED(status)) {
    return fail("the container's machine was killed by signal {}", WTERMSIG(status));
  }
  return fail("{}", words.empty() ? "the container's machine ended with an error" : words);
}

int ContainerMachine::reap() {
  int status = 0;
  if (!monitor_.pidfd) return status;
  (void)::syscall(SYS_pidfd_send_signal, monitor_.pidfd.get(), SIGKILL, nullptr, 0);  // or it ended
  while (::waitpid(monitor_.pid, &status, 0) < 0 && errno == EINTR) {
  }
  monitor_.pidfd.reset();
  for (const char* socket : {"vsock", "control"}) {
    (void)::unlink(fmt::format("{}/{}", directory_, socket).c_str());
  }
  return status;
}

ContainerMachine::~ContainerMachine() { (void)reap(); }

}  // namespace vmm::engine
