#include "src/engine/runtime/container.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>

#include "src/base/new_file.h"
#include "src/base/text.h"
#include "src/engine/runtime/container_snapshot.h"
#include "src/engine/runtime/names.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::array<std::string_view, 4> kStates = {"created", "running", "paused", "exited"};
constexpr std::size_t kMaxSpec = 8u << 20;
constexpr unsigned kNameAttempts = 6;
constexpr int kRemovals = 100;  // of a directory: tries
constexpr std::chrono::seconds kMakePatience{10};

ContainerState state_of(std::string_view text) {
  const auto found = std::ranges::find(kStates, text);
  return found == kStates.end() ? ContainerState::exited
                                : static_cast<ContainerState>(found - kStates.begin());
}

// Of the open file: kept by who inherits it, and looked at without being taken.
struct flock whole_file() {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

constexpr std::string_view kEnd = "end";  // CODE OUT_OF_MEMORY

std::optional<ContainerEnd> kept_end(const std::string& directory) {
  const auto text = read_text_file(directory + "/pid", 64);
  if (!text) return std::nullopt;
  const auto words = split(std::string_view(*text).substr(0, text->find('\n')), ' ');
  if (words.size() != 3 || words[0] != kEnd) return std::nullopt;
  const auto code = parse_number(words[1], 0, 255, "exit code");
  if (!code) return std::nullopt;
  return ContainerEnd{static_cast<int>(*code), words[2] == "1", ""};
}

constexpr std::string_view kColumns =
    "id, name, image, image_name, created, state, started, finished, exit_code, out_of_memory, "
    "error, snapshot";

Result<Container> container_of(const Statement& row) {
  Container container;
  container.id = row.text(0);
  container.name = row.text(1);
  container.image = TRY(Digest::parse(row.text(2)));
  container.image_name = row.text(3);
  container.created = row.number(4);
  container.state = state_of(row.text(5));
  container.started = row.number(6);
  container.finished = row.number(7);
  container.exit_code = static_cast<int>(row.number(8));
  container.out_of_memory = row.number(9) != 0;
  container.error = row.text(10);
  container.snapshot = row.text(11);
  return container;
}

}  // namespace

std::string_view to_text(ContainerState state) { return kStates[static_cast<std::size_t>(state)]; }

std::string Container::short_id() const { return id.substr(0, kShortId); }

std::int64_t now_in_nanoseconds() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(system_clock::now().time_since_epoch()).count();
}

Result<void> write_spec(const std::string& directory, const ContainerSpec& spec) {
  const auto text = protocol::encode_fields(spec);
  const auto file = TRY(open_file(directory + "/spec", O_WRONLY | O_CREAT | O_EXCL));
  TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  if (::fsync(file.get()) < 0) return fail_errno("cannot write '{}/spec'", directory);
  return {};
}

Result<void> remove_directory(const std::string& directory) {
  // Its name goes at once: who waits for its lock would make the file anew while it is emptied.
  const auto gone = directory + ".removed";
  const auto& left = ::rename(directory.c_str(), gone.c_str()) == 0 ? gone : directory;
  std::error_code error;
  for (int attempt = 0; attempt < kRemovals; ++attempt) {
    fs::remove_all(left, error);
    if (!error) return {};
    // A file was made just before, or another command removes the same.
    if (error != std::errc::directory_not_empty && error != std::errc::no_such_file_or_directory) {
      break;
    }
  }
  return fail("cannot remove '{}': {}", directory, error.message());
}

Result<ContainerLock> make_locked_directory(const std::string& directory) {
  // Who tidies up has its lock for a moment, and takes it for a leftover.
  for (const auto deadline = Clock::now() + kMakePatience; Clock::now() < deadline;) {
    if (::mkdir(directory.c_str(), 0777) < 0 && errno != EEXIST) {
      return fail_errno("cannot create '{}'", directory);
    }
    auto lock = ContainerLock::take(directory);
    if (lock && *lock && ::access((directory + "/lock").c_str(), F_OK) == 0) {
      return std::move(**lock);
    }
    if (lock && !*lock) (void)::poll(nullptr, 0, 1);
  }
  return fail("cannot lock '{}'", directory);
}

Result<ContainerSpec> read_spec(const std::string& directory) {
  const auto text = TRY(read_text_file(directory + "/spec", kMaxSpec));
  return protocol::decode_fields<ContainerSpec>(text);
}

Result<std::optional<ContainerLock>> ContainerLock::take(const std::string& directory) {
  ContainerLock lock(TRY(open_file(directory + "/lock", O_RDWR | O_CREAT)));
  auto whole = whole_file();
  if (::fcntl(lock.fd(), F_OFD_SETLK, &whole) == 0) return std::optional(std::move(lock));
  if (errno == EAGAIN || errno == EACCES) return std::optional<ContainerLock>();
  return fail_errno("cannot lock '{}'", directory);
}

bool ContainerLock::is_held(const std::string& directory) {
  const auto file = open_file(directory + "/lock", O_RDWR);
  if (!file) return false;
  auto whole = whole_file();
  return ::fcntl(file->get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

std::string Containers::directory(std::string_view id) const {
  return fmt::format("{}/containers/{}", store_.root(), id);
}

std::unexpected<Error> Containers::name_conflict(const std::string& name) {
  auto row = database_.prepare("SELECT id FROM container WHERE name = ?");
  if (!row) return std::unexpected(row.error());
  row->bind(1, name);
  const auto found = row->step();
  return fail(
      "Conflict. The container name \"/{}\" is already in use by container \"{}\". You have to "
      "remove (or rename) that container to be able to reuse that name.",
      name, found && *found ? row->text(0) : "");
}

Result<bool> Containers::has(const char* query, std::string_view value) {
  auto row = TRY(database_.prepare(query));
  row.bind(1, value);
  return row.step();
}

// Another command may have removed it since it was found.
Result<void> Containers::check_origin(const New& wanted) {
  if (!wanted.snapshot.empty() &&
      !TRY(has("SELECT 1 FROM snapshot WHERE id = ?", wanted.snapshot))) {
    return fail("No such snapshot: {}", wanted.snapshot_name);
  }
  if (TRY(has("SELECT 1 FROM image WHERE id = ?", wanted.image.text()))) return {};
  TRY(Catalog(store_).find(wanted.image_name));  // the error, unless the name is another's by now
  return fail("No such image: {}", wanted.image.text());
}

// The name that it got; "": a made-up name was taken.
Result<std::string> Containers::insert(const std::string& id, const New& wanted) {
  Transaction change(database_);
  TRY(change.begin());
  TRY(check_origin(wanted));
  for (unsigned attempt = 0; attempt <= kNameAttempts; ++attempt) {
    auto name = wanted.name;
    if (name.empty()) {
      name = attempt < kNameAttempts ? whimsical_name(attempt) : id.substr(0, kShortId);
    }
    if (TRY(has("SELECT 1 FROM container WHERE name = ?", name))) {
      if (wanted.name.empty()) continue;
      return name_conflict(name);
    }
    TRY(TRY(database_.prepare("INSERT INTO container (id, name, image, image_name, created, state, "
                              "snapshot) VALUES (?, ?, ?, ?, ?, 'created', NULLIF(?, ''))"))
            .bind(1, id)
            .bind(2, name)
            .bind(3, wanted.image.text())
            .bind(4, wanted.image_name)
            .bind(5, now_in_nanoseconds())
            .bind(6, wanted.snapshot)
            .run());
    TRY(change.commit());
    return name;
  }
  return fail("no name is free");
}

Result<Container> Containers::create(New wanted) {
  if (!wanted.name.empty()) TRY(check_container_name(wanted.name));
  const auto id = new_container_id();
  const auto path = directory(id);
  if (wanted.spec.host_name.empty()) wanted.spec.host_name = id.substr(0, kShortId);
  TRY(create_directories(directory("")));
  const auto lock = TRY(make_locked_directory(path));  // until the row is there
  const auto inserted = [&]() -> Result<std::string> {
    TRY(write_spec(path, wanted.spec));
    TRY(sync_directory(path));
    TRY(sync_directory(directory("")));  // last: what takes time is done once
    return insert(id, wanted);
  }();
  if (!inserted) {
    (void)remove_directory(path);  // or it is an orphan
    return std::unexpected(inserted.error());
  }
  auto made = TRY(by_id(id));
  if (!made) return fail("No such container: {}", id);
  return std::move(*made);
}

Result<std::vector<Container>> Containers::select(const std::string& condition,
                                                  std::string_view value) {
  std::vector<Container> all;
  auto rows = TRY(database_.prepare(fmt::format(
      "SELECT {} FROM container WHERE {} ORDER BY created DESC, id", kColumns, condition)));
  rows.bind(1, value);
  while (TRY(rows.step())) all.push_back(TRY(container_of(rows)));
  std::vector<Container> present;
  for (auto& one : all) {
    TRY(repair(one));
    if (auto spec = read_spec(directory(one.id))) {
      one.spec = std::move(*spec);
    } else if (!fs::exists(directory(one.id))) {
      // Removed meanwhile; or somebody took the directory, and nothing is left but the name.
      TRY(TRY(database_.prepare("DELETE FROM container WHERE id = ?")).bind(1, one.id).run());
      continue;
    }
    present.push_back(std::move(one));
  }
  return present;
}

Result<void> keep_end(const std::string& directory, const ContainerEnd& end) {
  const auto file = TRY(open_file(directory + "/pid", O_WRONLY | O_CREAT));
  const auto text = fmt::format("{} {} {}\n", kEnd, end.exit_code, int{end.out_of_memory});
  TRY(write_all_at(file.get(), std::as_bytes(std::span(text)), 0));
  if (::fdatasync(file.get()) < 0) return fail_errno("cannot sync '{}/pid'", directory);
  return {};
}

// The supervisor writes the end before it gives its lock up: read again under the lock.
Result<void> Containers::repair(Container& container) {
  const auto path = directory(container.id);
  if (!container.is_running() || ContainerLock::is_held(path)) return {};
  auto taken = ContainerLock::take(path);
  if (!taken || !*taken) return {};  // removed, or started again
  {
    // Done with before anything is written: what others have changed since would be in its way.
    auto row =
        TRY(database_.prepare(fmt::format("SELECT {} FROM container WHERE id = ?", kColumns)));
    row.bind(1, container.id);
    if (!TRY(row.step())) return {};
    container = TRY(container_of(row));
  }
  if (!container.is_running()) return {};
  for (const char* socket : {"supervisor", "vsock", "control"}) {
    (void)::unlink(fmt::format("{}/{}", path, socket).c_str());  // or there is none
  }
  // Of a damaged one the end is written all the same.
  if (auto spec = read_spec(path)) container.spec = std::move(*spec);
  if (container.spec.auto_remove) return remove(container.id);
  const auto end = kept_end(path).value_or(
      ContainerEnd{kLostExitCode, false, "the supervisor of the container was killed"});
  TRY(set_exited(container.id, end));
  (void)::unlink((path + "/pid").c_str());  // or there is none
  container.state = ContainerState::exited;
  container.exit_code = end.exit_code;
  container.out_of_memory = end.out_of_memory;
  container.error = end.error;
  container.finished = now_in_nanoseconds();
  return {};
}

Result<std::vector<Container>> Containers::list() {
  TRY(remove_orphans());
  return select("?1 = ''", "");
}

Result<std::optional<Container>> Containers::by_id(std::string_view id) {
  auto found = TRY(select("id = ?", id));
  if (found.empty()) return std::nullopt;
  return std::move(found[0]);
}

Result<Container> Containers::find(std::string_view name) {
  const auto plain = name.starts_with('/') ? name.substr(1) : name;
  if (auto whole = TRY(by_id(plain))) return std::move(*whole);
  auto found = TRY(select("name = ?", plain));
  const bool is_hex =
      !plain.empty() && plain.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (found.empty() && is_hex && plain.size() <= 64) {
    found = TRY(select("id GLOB ? || '*'", plain));
    if (found.size() > 1) return fail("multiple IDs found with provided prefix: {}", plain);
  }
  if (found.empty()) return fail("No such container: {}", name);
  return std::move(found[0]);
}

Result<void> Containers::set_running(const std::string& id) {
  return TRY(database_.prepare("UPDATE container SET state = 'running', started = ?, finished = 0, "
                               "exit_code = 0, out_of_memory = 0, error = '' WHERE id = ?"))
      .bind(1, now_in_nanoseconds())
      .bind(2, id)
      .run();
}

Result<void> Containers::set_paused(const std::string& id, bool paused) {
  return TRY(database_.prepare("UPDATE container SET state = ? WHERE id = ? AND state = ?"))
      .bind(1, paused ? "paused" : "running")
      .bind(2, id)
      .bind(3, paused ? "running" : "paused")
      .run();
}

Result<void> Containers::set_exited(const std::string& id, const ContainerEnd& end) {
  return TRY(database_.prepare("UPDATE container SET state = 'exited', finished = ?, "
                               "exit_code = ?, out_of_memory = ?, error = ? WHERE id = ?"))
      .bind(1, now_in_nanoseconds())
      .bind(2, end.exit_code)
      .bind(3, std::int64_t{end.out_of_memory})
      .bind(4, end.error)
      .bind(5, id)
      .run();
}

Result<void> Containers::set_failed(const std::string& id, const ContainerEnd& end) {
  return TRY(database_.prepare("UPDATE container SET exit_code = ?, error = ? WHERE id = ?"))
      .bind(1, end.exit_code)
      .bind(2, end.error)
      .bind(3, id)
      .run();
}

Result<void> Containers::rename(const Container& container, const std::string& name) {
  TRY(check_container_name(name));
  Transaction change(database_);
  TRY(change.begin());
  if (!TRY(has("SELECT 1 FROM container WHERE id = ?", container.id))) {
    return fail("No such container: {}", container.name);
  }
  if (TRY(has("SELECT 1 FROM container WHERE name = ?", name))) return name_conflict(name);
  TRY(TRY(database_.prepare("UPDATE container SET name = ? WHERE id = ?"))
          .bind(1, name)
          .bind(2, container.id)
          .run());
  return change.commit();
}

Result<void> Containers::remove(const std::string& id) {
  auto row = TRY(database_.prepare("DELETE FROM container WHERE id = ? RETURNING snapshot"));
  row.bind(1, id);
  std::string snapshot;
  while (TRY(row.step())) snapshot = row.text(0);
  TRY(remove_directory(directory(id)));
  if (snapshot.empty()) return {};
  return ContainerSnapshots(store_).release(snapshot);
}

Result<void> Containers::remove_orphans() {
  std::error_code none;  // no directory: no container yet
  for (const auto& entry : fs::directory_iterator(directory(""), none)) {
    const auto id = entry.path().filename().string();
    constexpr const char* kRow = "SELECT 1 FROM container WHERE id = ?";
    if (TRY(has(kRow, id))) continue;
    const auto lock = ContainerLock::take(entry.path());
    if (!lock || !*lock) continue;  // being made, or removed
    if (!TRY(has(kRow, id))) TRY(remove_directory(entry.path()));
  }
  return {};
}

}  // namespace vmm::engine
