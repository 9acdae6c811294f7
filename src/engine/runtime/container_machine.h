// ContainerMachine: a machine whose agent works with the files of a container. Of one that runs,
// its own; of a stopped one, one that starts here without any process of the container, and holds
// the container's lock.
//
//   auto machine = TRY(ContainerMachine::open(root, "web"));
//   ... file_task.h, by machine.directory() ...
//   TRY(machine->finish());   // what was written is on the disk; without it, a started one is
//   killed
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/engine/runtime/container.h"
#include "src/engine/runtime/started_machine.h"

namespace vmm::engine {

class ContainerMachine {
 public:
  // Error: no such container; another command holds it; its machine does not start.
  static Result<std::unique_ptr<ContainerMachine>> open(const std::string& root,
                                                        const std::string& name);

  const Container& container() const { return container_; }
  const std::string& directory() const { return directory_; }
  // Error: also when what was written may not be on the disk.
  Result<void> finish();

 private:
  ContainerMachine() = default;
  Result<bool> take(const std::string& root, const std::string& name);
  Result<void> start(const std::string& root);
  Result<void> start(const Container& unconnected, const std::string& program,
                     const std::vector<std::string>& words, std::chrono::seconds patience);

  Container container_;
  std::string directory_;
  std::optional<ContainerLock> lock_;  // of a stopped container
  std::optional<StartedMachine> machine_;
};

// The list of files that its image is, and its writable layer, in the directory of a container
// whose lock the caller holds. The directory is to be synced before a row says that it ran.
Result<void> make_disks(Store& store, const Container& container);

}  // namespace vmm::engine
