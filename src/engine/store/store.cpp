#include "src/engine/store/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "src/base/new_file.h"
#include "src/engine/store/schema.h"

namespace vmm::engine {
namespace {

// flock() turns a lock into another kind by release and new request: nothing may rely on what
// was seen before.
Result<void> lock(const UniqueFd& fd, int operation) {
  while (::flock(fd.get(), operation) < 0) {
    if (errno != EINTR) return fail_errno("cannot lock the store");
  }
  return {};
}

bool lock_alone(const UniqueFd& fd) { return ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0; }

// A relative one is not valid (XDG Base Directory Specification).
const char* absolute_path_in(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value == '/' ? value : nullptr;
}

constexpr std::string_view kNamedBlobs =
    "SELECT id FROM image UNION SELECT manifest FROM image UNION SELECT blob FROM image_layer";
constexpr std::string_view kNamedLayers = "SELECT diff_id FROM layer";
constexpr std::string_view kNamedImages = "SELECT id FROM image";

}  // namespace

Result<std::string> default_root() {
  if (const char* root = std::getenv("VMM_ROOT"); root != nullptr && *root != 0) {
    return std::filesystem::absolute(root).string();
  }
  if (::geteuid() == 0) return "/var/lib/vmm";
  if (const char* data = absolute_path_in("XDG_DATA_HOME")) return fmt::format("{}/vmm", data);
  if (const char* home = absolute_path_in("HOME")) return fmt::format("{}/.local/share/vmm", home);
  return fail("no place for the store: set HOME, XDG_DATA_HOME or VMM_ROOT");
}

Result<Store> Store::open(const std::string& root) {
  // Images are their owner's: what is in them may be secret.
  TRY(create_directories(root, 0700));
  auto lock_file = TRY(open_file(root + "/lock", O_RDWR | O_CREAT));
  auto content = TRY(ContentStore::open(root));
  if (lock_alone(lock_file)) TRY(content.remove_temporary_files());
  TRY(lock(lock_file, LOCK_SH));
  auto database = TRY(Database::open(root + "/store.db"));
  TRY(migrate(database));
  return Store(root, std::move(lock_file), std::move(content), std::move(database));
}

Result<std::uint64_t> Store::collect_garbage() {
  std::uint64_t freed = 0;
  if (lock_alone(lock_)) {
    TRY(database_.execute(
        "DELETE FROM layer WHERE diff_id NOT IN (SELECT diff_id FROM image_layer)"));
    for (const auto& [kind, query] : {std::pair{Content::blob, kNamedBlobs},
                                      {Content::layer, kNamedLayers},
                                      {Content::merged, kNamedImages}}) {
      std::set<std::string> named;
      auto rows = TRY(database_.prepare(query));
      while (TRY(rows.step())) named.insert(rows.text(0));
      for (const auto& digest : TRY(content_.list(kind))) {
        if (!named.contains(digest.text())) freed += TRY(content_.remove(kind, digest));
      }
    }
  }
  TRY(lock(lock_, LOCK_SH));
  return freed;
}

}  // namespace vmm::engine
