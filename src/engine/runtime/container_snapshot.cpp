#include "src/engine/runtime/container_snapshot.h"

#include <chrono>
#include <filesystem>
#include <optional>

#include "src/base/new_file.h"
#include "src/engine/runtime/names.h"
#include "src/protocol/control_client.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookEvery{100};  // whether it is cancelled
constexpr std::chrono::milliseconds kCancelPatience{800};
constexpr std::string_view kColumns = "id, name, image, image_name, container_name, created";

Result<ContainerSnapshot> snapshot_of(const Statement& row) {
  ContainerSnapshot snapshot;
  snapshot.id = row.text(0);
  snapshot.name = row.text(1);
  snapshot.image = TRY(Digest::parse(row.text(2)));
  snapshot.image_name = row.text(3);
  snapshot.container_name = row.text(4);
  snapshot.created = row.number(5);
  return snapshot;
}

std::unexpected<Error> name_is_taken(const std::string& name) {
  return fail("a snapshot of the name '{}' is there already", name);
}

// The guest runs on while its memory is written.
Result<void> save_machine(const std::string& container, const std::string& target,
                          Progress& progress) {
  auto control = TRY(protocol::ControlClient::connect(container + "/control"));
  const auto job = TRY(control.call<protocol::JobResult>(
      protocol::Snapshot{.directory = target, .parent = "", .live = true, .stop = false}));
  const auto waiting = TRY(control.ask(protocol::Wait{job.job}));
  std::optional<Clock::time_point> deadline;  // of what was cancelled: its files are to be let go
  while (!deadline || Clock::now() < *deadline) {
    if (!deadline && !progress.advance(0)) {
      TRY(control.ask(protocol::Cancel{job.job}));
      deadline = Clock::now() + kCancelPatience;
    }
    const auto line = TRY(control.poll_line(kLookEvery));
    if (!line) continue;
    const auto reply = TRY(protocol::decode_reply(*line));
    if (reply.id != waiting) continue;
    return reply.ok ? Result<void>() : fail("{}", reply.error);
  }
  return std::unexpected(Error("cancelled", kCancelled));
}

}  // namespace

std::string ContainerSnapshots::directory(std::string_view id) const {
  return fmt::format("{}/snapshots/{}", store_.root(), id);
}

Result<ContainerSnapshots::Made> ContainerSnapshots::create(const Container& container,
                                                            const std::string& name,
                                                            Progress& progress) {
  if (container.state == ContainerState::paused) {
    return fail("Container {} is paused. Unpause the container before it is saved", container.name);
  }
  if (!container.is_running()) return fail("container {} is not running", container.id);
  if (!name.empty()) {
    if (!check_container_name(name)) {
      return fail(
          "invalid snapshot name '{}': expected two or more letters, digits, '_', '.' and '-', a "
          "letter or a digit first",
          name);
    }
    if (find(name)) return name_is_taken(name);
  }
  TRY(remove_orphans());
  const ContainerSnapshot snapshot{new_container_id(),   name,           container.image,
                                   container.image_name, container.name, now_in_nanoseconds()};
  const auto path = directory(snapshot.id);
  TRY(create_directories(directory("")));
  auto lock = TRY(make_locked_directory(path));
  if (const auto saved = save(container, snapshot, progress); !saved) {
    (void)remove_directory(path);  // or it is an orphan
    return std::unexpected(saved.error());
  }
  return Made{snapshot, std::move(lock)};
}

Result<void> ContainerSnapshots::save(const Container& container, const ContainerSnapshot& snapshot,
                                      Progress& progress) {
  const auto path = directory(snapshot.id);
  TRY(save_machine(Containers(store_).directory(container.id), machine(snapshot.id), progress));
  TRY(write_spec(path, container.spec));
  TRY(sync_directory(path));
  TRY(sync_directory(directory("")));
  TRY(progress.advance(0));
  return insert(snapshot);
}

// Other commands may have taken the name meanwhile, or removed the container and its image.
Result<void> ContainerSnapshots::insert(const ContainerSnapshot& snapshot) {
  Transaction change(database_);
  TRY(change.begin());
  if (!snapshot.name.empty() && find(snapshot.name)) return name_is_taken(snapshot.name);
  if (!TRY(Catalog(store_).by_id(snapshot.image))) {
    return fail("No such image: {}", snapshot.image_name);
  }
  TRY(TRY(database_.prepare("INSERT INTO snapshot (id, name, image, image_name, container_name, "
                            "created) VALUES (?, ?, ?, ?, ?, ?)"))
          .bind(1, snapshot.id)
          .bind(2, snapshot.name)
          .bind(3, snapshot.image.text())
          .bind(4, snapshot.image_name)
          .bind(5, snapshot.container_name)
          .bind(6, snapshot.created)
          .run());
  return change.commit();
}

Result<std::vector<ContainerSnapshot>> ContainerSnapshots::list() {
  TRY(remove_orphans());
  std::vector<ContainerSnapshot> all;
  auto rows = TRY(database_.prepare(
      fmt::format("SELECT {} FROM snapshot WHERE name != '' ORDER BY created DESC, id", kColumns)));
  while (TRY(rows.step())) all.push_back(TRY(snapshot_of(rows)));
  return all;
}

Result<ContainerSnapshot> ContainerSnapshots::find(std::string_view name) {
  auto row = TRY(database_.prepare(
      fmt::format("SELECT {} FROM snapshot WHERE name = ? AND name != ''", kColumns)));
  row.bind(1, name);
  if (!TRY(row.step())) return fail("No such snapshot: {}", name);
  return snapshot_of(row);
}

Result<ContainerSpec> ContainerSnapshots::spec(const ContainerSnapshot& snapshot) {
  auto spec = read_spec(directory(snapshot.id));
  if (!spec && !snapshot.name.empty()) TRY(find(snapshot.name));
  return spec;
}

Result<std::vector<std::string>> ContainerSnapshots::users(const ContainerSnapshot& snapshot) {
  std::vector<std::string> ids;
  auto rows = TRY(database_.prepare("SELECT id FROM container WHERE snapshot = ? ORDER BY id"));
  rows.bind(1, snapshot.id);
  while (TRY(rows.step())) ids.push_back(rows.text(0));
  return ids;
}

Result<void> ContainerSnapshots::remove(const ContainerSnapshot& snapshot) {
  Transaction change(database_);
  TRY(change.begin());
  const auto ids = TRY(users(snapshot));
  if (!ids.empty()) {
    return fail("conflict: unable to remove snapshot \"{}\" - container {} is made of it",
                snapshot.name, ids[0].substr(0, kShortId));
  }
  TRY(TRY(database_.prepare("DELETE FROM snapshot WHERE id = ?")).bind(1, snapshot.id).run());
  TRY(change.commit());
  return remove_directory(directory(snapshot.id));
}

Result<void> ContainerSnapshots::release(const std::string& id) {
  const auto lock = ContainerLock::take(directory(id));
  if (lock && !*lock) return {};  // a fork makes more of it
  return release_held(id);
}

Result<void> ContainerSnapshots::release_held(const std::string& id) {
  auto row =
      TRY(database_.prepare("DELETE FROM snapshot WHERE id = ? AND name = '' AND NOT EXISTS "
                            "(SELECT 1 FROM container WHERE snapshot = snapshot.id) RETURNING id"));
  row.bind(1, id);
  if (!TRY(row.step())) return {};
  TRY(row.step());  // to its end, which commits
  return remove_directory(directory(id));
}

Result<void> ContainerSnapshots::remove_orphans() {
  std::error_code none;  // no directory: no snapshot yet
  for (const auto& entry : fs::directory_iterator(directory(""), none)) {
    const auto id = entry.path().filename().string();
    const auto lock = ContainerLock::take(entry.path());
    if (!lock || !*lock) continue;  // being made
    TRY(release_held(id));          // of a fork that was killed before it made a container
    auto row = TRY(database_.prepare("SELECT 1 FROM snapshot WHERE id = ?"));
    row.bind(1, id);
    if (!TRY(row.step())) (void)remove_directory(entry.path());  // a machine may write there still
  }
  return {};
}

}  // namespace vmm::engine
