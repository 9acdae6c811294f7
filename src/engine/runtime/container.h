// Containers: the rows of the store's containers, and their directories.
//
//   ROOT/containers/ID/spec         ContainerSpec
//                     /lock         held by the supervisor and its machine while either lives
//                     /supervisor   socket of the supervisor (wire.h); `pid` beside it
//                     /vsock, control     sockets of the machine
//                     /image.vmdk, writable.img   what its machine has; of one that is made of a
//                     snapshot
//                                 writable.qcow2, a layer over the snapshot's
//                     /log, log.1 ...     what it wrote (log_writer.h)
//
// A container is made as directory first, then as row; it goes as row first. A directory without a
// row that nobody holds is left of a killed command. A row that is running while nobody holds its
// lock is of a killed supervisor: whoever reads it writes its end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/image/catalog.h"
#include "src/engine/runtime/spec.h"
#include "src/engine/store/store.h"

namespace vmm::engine {

enum class ContainerState : std::uint8_t { created, running, paused, exited };
std::string_view to_text(ContainerState state);

struct Container {
  std::string id, name;
  Digest image;
  std::string image_name;
  std::string snapshot;  // id of the one that it goes on from at its first start; or ""
  std::int64_t created = 0, started = 0, finished = 0;  // nanoseconds since 1970; 0: not yet
  ContainerState state = ContainerState::created;
  int exit_code = 0;
  bool out_of_memory = false;
  std::string error;
  ContainerSpec spec;

  std::string short_id() const;
  bool is_running() const {
    return state == ContainerState::running || state == ContainerState::paused;
  }
  // Its process runs in its snapshot, and is not started.
  bool goes_on() const { return !snapshot.empty() && started == 0; }
  // Of its directory: what its files' changes are written to.
  std::string writable_file() const { return snapshot.empty() ? "writable.img" : "writable.qcow2"; }
};

// How a container's first process ended, or why it did not start.
struct ContainerEnd {
  int exit_code = 0;
  bool out_of_memory = false;
  std::string error;
};
// Of a container whose supervisor was killed.
inline constexpr int kLostExitCode = 255;

// In place of the row of an end that no disk has room for: it stands in `pid`, whose block the disk
// has, until the next command writes the row. The caller holds the lock. `end.error` is left out.
Result<void> keep_end(const std::string& directory, const ContainerEnd& end);

// The lock of a container's directory. A machine that inherits its descriptor holds it as well.
class ContainerLock {
 public:
  // None: another process holds it. Error: there is no such directory.
  static Result<std::optional<ContainerLock>> take(const std::string& directory);
  // Whether some process holds it; takes nothing.
  static bool is_held(const std::string& directory);
  int fd() const { return fd_.get(); }

 private:
  explicit ContainerLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

std::int64_t now_in_nanoseconds();

// The file `spec` of a directory.
Result<void> write_spec(const std::string& directory, const ContainerSpec& spec);
Result<ContainerSpec> read_spec(const std::string& directory);
// A new one. Until it has its lock, other commands take it for one that was left behind.
Result<ContainerLock> make_locked_directory(const std::string& directory);
// With all that is in it; or it is gone already.
Result<void> remove_directory(const std::string& directory);

class Containers {
 public:
  explicit Containers(Store& store) : store_(store), database_(store.database()) {}

  std::string directory(std::string_view id) const;

  struct New {
    std::string name;  // "": one is made up
    Digest image;
    std::string image_name;
    ContainerSpec spec;
    std::string snapshot = {};  // id of the one that it is made of
    std::string snapshot_name = {};
  };
  // Error: in Docker's words, the name is taken or is none; what it is made of has been removed.
  Result<Container> create(New wanted);

  // The newest first, as they are now.
  Result<std::vector<Container>> list();
  // By name, id, or the beginning of an id. Error: "No such container: NAME".
  Result<Container> find(std::string_view name);
  Result<std::optional<Container>> by_id(std::string_view id);

  Result<void> set_running(const std::string& id);
  Result<void> set_paused(const std::string& id, bool paused);
  Result<void> set_exited(const std::string& id, const ContainerEnd& end);
  // It never ran: the state stays `created` (or what it was), with code and error.
  Result<void> set_failed(const std::string& id, const ContainerEnd& end);
  Result<void> rename(const Container& container, const std::string& name);
  // Row and directory. The caller holds its lock.
  Result<void> remove(const std::string& id);
  // Directories that killed commands left.
  Result<void> remove_orphans();

 private:
  Result<std::vector<Container>> select(const std::string& condition, std::string_view value);
  Result<void> repair(Container& container);
  Result<std::string> insert(const std::string& id, const New& wanted);
  Result<void> check_origin(const New& wanted);
  Result<bool> has(const char* query, std::string_view value);
  std::unexpected<Error> name_conflict(const std::string& name);

  Store& store_;
  Database& database_;
};

}  // namespace vmm::engine
