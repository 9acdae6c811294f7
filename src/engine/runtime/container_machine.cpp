#include "src/engine/runtime/container_machine.h"

#include <poll.h>
#include <unistd.h>

#include <chrono>

#include "src/base/new_file.h"
#include "src/engine/runtime/agent_machine.h"
#include "src/engine/runtime/guest_request.h"
#include "src/engine/runtime/machine_template.h"

namespace vmm::engine {
namespace {

namespace agent = protocol::agent;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kLockPatience{30};    // of one that starts or ends
constexpr std::chrono::seconds kSyncPatience{3600};  // a full memory of writes, on a slow disk
constexpr std::chrono::seconds kPowerPatience{60};
constexpr int kRetry = 10;  // milliseconds

}  // namespace

Result<void> make_disks(Store& store, const Container& container) {
  const auto directory = Containers(store).directory(container.id);
  const auto image = TRY(Catalog(store).by_id(container.image));
  if (!image) return fail("No such image: {}", container.image.text());
  const auto text = disk_descriptor(TRY(image_files(store.content(), *image)));
  const auto file = TRY(open_file(directory + "/image.vmdk", O_WRONLY | O_CREAT | O_TRUNC));
  TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  const auto writable = fmt::format("{}/{}", directory, container.writable_file());
  if (!container.snapshot.empty()) {
    // The layer of a start that failed is not of the moment of the snapshot.
    if (container.goes_on()) (void)::unlink(writable.c_str());
    return {};
  }
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
  auto lock = ContainerLock::take(directory_);
  // It may have run, or gone, before the lock was ours.
  container_ = TRY(containers.find(container_.id));
  lock_ = TRY(std::move(lock));
  return lock_.has_value();
}

Result<void> ContainerMachine::start(const std::string& root) {
  if (container_.goes_on()) {
    return fail("container {} has not been started: until then its files are its snapshot's",
                container_.name);
  }
  {
    auto store = TRY(Store::open(root));
    TRY(make_disks(store, container_));
    TRY(sync_directory(directory_));
  }
  const auto program = TRY(find_monitor());
  auto unconnected = container_;
  unconnected.spec.network = "none";
  const auto files = TRY(find_machine_files(unconnected.spec.kernel));
  const auto recipe = TRY(template_recipe(unconnected.spec, files, program));
  const MachineTemplates templates(root);
  const auto found = container_.spec.cold ? std::nullopt : templates.find(recipe.name);
  if (!found) return start(unconnected, program, boot_words(unconnected, files), kBootPatience);
  const auto restored =
      start(unconnected, program, restore_words(unconnected, found->path), kRestorePatience);
  if (restored) {
    templates.note_success(recipe.name);
    return {};
  }
  machine_.reset();
  TRY(start(unconnected, program, boot_words(unconnected, files), kBootPatience));
  (void)templates.note_failure(recipe.name, *found, restored.error().message());
  return {};
}

Result<void> ContainerMachine::start(const Container& unconnected, const std::string& program,
                                     const std::vector<std::string>& words,
                                     std::chrono::seconds patience) {
  machine_.emplace(TRY(StartedMachine::start(program, words, directory_, lock_->fd())));
  TRY(machine_->wait_for_agent(patience));
  TRY(ask_agent<agent::Done>(directory_, configure_request(unconnected), patience));
  TRY(ask_agent<agent::Done>(directory_, mount_request(unconnected), patience));
  return {};
}

Result<void> ContainerMachine::finish() {
  if (!machine_) return {};
  TRY(ask_agent<agent::Done>(directory_, agent::Sync{}, kSyncPatience));
  // Its end is the answer.
  (void)ask_agent_message(directory_, protocol::agent::encode(agent::PowerOff{}));
  return machine_->wait(kPowerPatience);
}

}  // namespace vmm::engine
