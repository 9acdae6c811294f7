#include "src/hypervisor/snapshot/origin.h"

#include <fcntl.h>
#include <nettle/hmac.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/files.h"

namespace vmm::snapshot {
namespace {

using Key = std::array<std::byte, 32>;

std::string key_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return std::string(state) + "/vmm/origin-key";
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') return {};
  return std::string(home) + "/.local/state/vmm/origin-key";
}

// Of this user's alone, or it proves nothing.
Result<Key> read_key(const std::string& path) {
  const auto file = TRY(open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  struct stat status{};
  if (::fstat(file.get(), &status) < 0) return fail_errno("cannot examine '{}'", path);
  if (!S_ISREG(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 077) != 0 ||
      status.st_size != static_cast<off_t>(sizeof(Key))) {
    return fail("'{}' is not a key that only its user can read", path);
  }
  Key key;
  TRY(read_exact_at(file.get(), key, 0));
  return key;
}

// Under its name once it is whole; of two that make one, the first is kept.
Result<void> make_key(const std::string& path) {
  std::error_code error;
  const auto folder = std::filesystem::path(path).parent_path();
  std::filesystem::create_directories(folder, error);
  if (error) return fail("cannot make '{}': {}", folder.string(), error.message());
  UniqueFd file(::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (!file) return fail_errno("cannot make a file in '{}'", folder.string());
  Key key;
  if (::getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size())) {
    return fail_errno("getrandom");
  }
  TRY(write_all(file.get(), key));
  // A name without content would be no key for ever.
  if (::fsync(file.get()) < 0) return fail_errno("cannot sync '{}'", path);
  const auto unnamed = "/proc/self/fd/" + std::to_string(file.get());
  if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) < 0 &&
      errno != EEXIST) {
    return fail_errno("cannot make '{}'", path);
  }
  return {};
}

std::string origin_of(const Key& key, const std::string& digest) {
  hmac_sha256_ctx context;
  hmac_sha256_set_key(&context, key.size(), reinterpret_cast<const std::uint8_t*>(key.data()));
  hmac_sha256_update(&context, digest.size(), reinterpret_cast<const std::uint8_t*>(digest.data()));
  Key result;
  hmac_sha256_digest(&context, result.size(), reinterpret_cast<std::uint8_t*>(result.data()));
  return to_hex(result) + "\n";
}

}  // namespace

std::string make_origin(const std::string& digest) {
  const auto path = key_path();
  if (path.empty()) return {};
  auto key = read_key(path);
  if (!key && make_key(path)) key = read_key(path);
  return key ? origin_of(*key, digest) : std::string();
}

bool is_from_here(const std::string& directory, const std::string& digest) {
  constexpr std::size_t kSize = 65;
  const auto origin = read_part(directory, kOriginFile, kSize);
  const auto path = key_path();
  if (!origin || path.empty()) return false;
  const auto key = read_key(path);
  return key && origin_of(*key, digest) == *origin;
}

}  // namespace vmm::snapshot
