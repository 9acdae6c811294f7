// Snapshots of running containers: the memory and the disk of a container's machine, of one moment.
// A container that is made of one goes on from there, with a name, an address and an identity of
// its own.
//
//   ROOT/snapshots/ID/spec      ContainerSpec of the container that it is of
//                    /lock      held while it is made, and by a fork that makes containers of it
//                    /machine   the snapshot of the machine (hypervisor/snapshot/FORMAT.md)
//
// A snapshot is made as directory first, then as row; it goes as row first. The disk of a container
// from it is a layer over the snapshot's: it stays as long as one is there. One without a name is a
// fork's, and goes with the last container from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/progress.h"
#include "src/engine/runtime/container.h"

namespace vmm::engine {

struct ContainerSnapshot {
  std::string id, name;
  Digest image;
  std::string image_name;
  std::string container_name;
  std::int64_t created = 0;  // nanoseconds since 1970
};

class ContainerSnapshots {
 public:
  explicit ContainerSnapshots(Store& store) : store_(store), database_(store.database()) {}

  std::string directory(std::string_view id) const;
  // Of the machine that a container goes on from.
  std::string machine(std::string_view id) const { return directory(id) + "/machine"; }

  // Of a container that runs, and runs on. `lock` is for who makes containers of it.
  struct Made {
    ContainerSnapshot snapshot;
    std::optional<ContainerLock> lock;
  };
  // Error: it is paused, or ends meanwhile; the name is taken or is none; the disk is full; it was
  // cancelled, which the machine is given a second for. Nothing is left then.
  Result<Made> create(const Container& container, const std::string& name,
                      Progress& progress = Progress::none());

  // Those with a name, the newest first.
  Result<std::vector<ContainerSnapshot>> list();
  // Error: "No such snapshot: NAME".
  Result<ContainerSnapshot> find(std::string_view name);
  // Error: another command has removed it.
  Result<ContainerSpec> spec(const ContainerSnapshot& snapshot);
  Result<std::vector<std::string>> users(const ContainerSnapshot& snapshot);  // ids of containers
  // Error: containers are made of it.
  Result<void> remove(const ContainerSnapshot& snapshot);
  // After the end of a container from it: one of a fork goes with the last, unless it is held.
  Result<void> release(const std::string& id);
  // What killed commands left.
  Result<void> remove_orphans();

 private:
  Result<void> release_held(const std::string& id);
  Result<void> save(const Container& container, const ContainerSnapshot& snapshot,
                    Progress& progress);
  Result<void> insert(const ContainerSnapshot& snapshot);

  Store& store_;
  Database& database_;
};

}  // namespace vmm::engine
