#include "firmware/loader/payload_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "firmware/little_endian.h"
#include "src/base/file_time.h"
#include "src/base/result.h"

namespace vmm::loader {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".payload";
constexpr std::string_view kTemporary = ".new-";
constexpr auto kAbandoned = std::chrono::hours(1);  // a temporary file this old has no writer

// The last bytes of a file. Its format is private to one host, so that a change of it takes a new
// magic and nothing more.
constexpr std::array<char, 8> kCacheMagic = {'v', 'm', 'm', 'k', 'r', 'n', 'l', '2'};
struct Trailer {
  std::array<char, 8> magic{};
  FileIdentity identity;
  std::uint64_t payload_size = 0;
  std::uint64_t setup_header_size = 0;
  std::array<std::byte, 168> setup_header{};
  std::uint64_t payload_digest = 0;
  std::uint64_t digest = 0;  // of everything above
};
static_assert(sizeof(Trailer) == 248);

std::uint64_t fnv1a(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::byte b : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3;
  return hash;
}

std::uint64_t digest_of(const Trailer& trailer) {
  return fnv1a(std::as_bytes(std::span(&trailer, 1)).first(offsetof(Trailer, digest)));
}

// Of damage, not of malice: 32 bytes at a time, as a kernel has tens of millions.
std::uint64_t digest_of(std::span<const std::byte> payload) {
  std::array<std::uint64_t, 4> lanes = {1, 2, 3, 4};
  for (; payload.size() >= sizeof lanes; payload = payload.subspan(sizeof lanes)) {
    std::array<std::uint64_t, 4> words;
    std::memcpy(words.data(), payload.data(), sizeof words);
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      lanes[i] = std::rotl(lanes[i] ^ words[i], 29) * 0x9e3779b97f4a7c15;
    }
  }
  return fnv1a(std::as_bytes(std::span(lanes))) ^ fnv1a(payload);
}

// The nanoseconds of a file's time that say: its digest was right, since this host started, and it
// was not written to since. None: that cannot be told here.
std::optional<long> mark_of_host() {
  const auto boot = read_text_file("/proc/sys/kernel/random/boot_id");
  if (!boot || boot->empty()) return std::nullopt;
  return static_cast<long>(fnv1a(std::as_bytes(std::span(*boot))) % 999'999'999 + 1);
}

// Keeps the seconds, as the oldest files are removed first.
void mark(int fd, const timespec& time) {
  const auto nanoseconds = mark_of_host();
  if (!nanoseconds) return;
  const timespec times[] = {{0, UTIME_OMIT}, {time.tv_sec, *nanoseconds}};
  (void)::futimens(fd, times);  // it is compared again, then
}

bool has_digest(int fd, std::uint64_t size, std::uint64_t digest) {
  if (size == 0) return digest_of(std::span<const std::byte>()) == digest;
  void* const content = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (content == MAP_FAILED) return false;
  const bool same = digest_of(std::span(static_cast<const std::byte*>(content), size)) == digest;
  ::munmap(content, size);
  return same;
}

bool is_private(const struct stat& status) {
  return status.st_uid == ::geteuid() && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

// Makes `path` and its parents, each 0700, and says whether it is a directory of this user alone.
bool make_private_directory(const std::string& path) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), 0700) < 0 && errno != EEXIST) return false;
    if (slash == std::string::npos) break;
  }
  struct stat status{};
  return ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && is_private(status);
}

}  // namespace

FileIdentity FileIdentity::of(const struct stat& status) {
  return {.device = status.st_dev,
          .inode = status.st_nlink == 0 ? 0 : status.st_ino,
          .size = static_cast<std::uint64_t>(status.st_size),
          .modified_ns = nanoseconds(status.st_mtim),
          .changed_ns = nanoseconds(status.st_ctim)};
}

PayloadCache PayloadCache::of_user(std::string_view kind) {
  // Relative paths are not valid there (XDG Base Directory Specification).
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && cache[0] == '/') {
    return PayloadCache(fmt::format("{}/vmm/{}", cache, kind));
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') {
    return PayloadCache(fmt::format("{}/.cache/vmm/{}", home, kind));
  }
  return PayloadCache("");
}

std::string PayloadCache::path_of(const FileIdentity& identity) const {
  return fmt::format("{}/{:016x}{}", directory_, fnv1a(std::as_bytes(std::span(&identity, 1))),
                     kSuffix);
}

std::optional<PayloadCache::Entry> PayloadCache::find(const FileIdentity& identity) const {
  if (directory_.empty() || identity.inode == 0) return std::nullopt;
  Entry entry;
  entry.file =
      UniqueFd(::open(path_of(identity).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status{};
  if (!entry.file || ::fstat(entry.file.get(), &status) < 0 || !S_ISREG(status.st_mode) ||
      !is_private(status)) {
    return std::nullopt;
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < sizeof(Trailer)) return std::nullopt;
  Trailer trailer;
  if (!read_exact_at(entry.file.get(), std::as_writable_bytes(std::span(&trailer, 1)),
                     size - sizeof trailer)) {
    return std::nullopt;
  }
  if (trailer.magic != kCacheMagic || trailer.digest != digest_of(trailer) ||
      trailer.identity != identity || trailer.payload_size != size - sizeof trailer ||
      trailer.setup_header_size > trailer.setup_header.size()) {
    return std::nullopt;
  }
  if (status.st_mtim.tv_nsec != mark_of_host()) {
    if (!has_digest(entry.file.get(), trailer.payload_size, trailer.payload_digest)) {
      return std::nullopt;
    }
    mark(entry.file.get(), status.st_mtim);
  }
  entry.payload_size = trailer.payload_size;
  entry.setup_header.assign(
      trailer.setup_header.begin(),
      trailer.setup_header.begin() + static_cast<std::ptrdiff_t>(trailer.setup_header_size));
  return entry;
}

bool PayloadCache::store(const FileIdentity& identity, std::span<const std::byte> setup_header,
                         std::span<const std::byte> payload) const {
  Trailer trailer{.magic = kCacheMagic, .identity = identity, .payload_size = payload.size()};
  if (directory_.empty() || identity.inode == 0) return false;
  if (setup_header.size() > trailer.setup_header.size()) return false;
  if (!make_private_directory(directory_)) return false;
  trailer.setup_header_size = setup_header.size();
  std::ranges::copy(setup_header, trailer.setup_header.begin());
  trailer.payload_digest = digest_of(payload);
  trailer.digest = digest_of(trailer);

  std::string temporary = fmt::format("{}/{}XXXXXX", directory_, kTemporary);
  const UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));  // 0600
  if (!file) return false;
  if (!write_all(file.get(), payload) ||
      !write_all(file.get(), std::as_bytes(std::span(&trailer, 1))) ||
      ::fdatasync(file.get()) < 0 || ::rename(temporary.c_str(), path_of(identity).c_str()) < 0) {
    ::unlink(temporary.c_str());
    return false;
  }
  if (struct stat status{}; ::fstat(file.get(), &status) == 0) mark(file.get(), status.st_mtim);
  prune();
  return true;
}

void PayloadCache::prune() const {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> entries;
  const auto now = fs::file_time_type::clock::now();
  fs::directory_iterator files(directory_, error);
  for (; !error && files != fs::directory_iterator(); files.increment(error)) {
    std::error_code gone;
    const fs::path path = files->path();
    const auto time = fs::last_write_time(path, gone);
    if (gone) continue;
    if (path.filename().native().starts_with(kTemporary) && now - time > kAbandoned) {
      fs::remove(path, gone);
    } else if (path.native().ends_with(kSuffix)) {
      entries.emplace_back(time, path);
    }
  }
  if (entries.size() <= kMaxEntries) return;
  std::ranges::sort(entries, std::greater<>());
  for (std::size_t i = kMaxEntries; i < entries.size(); ++i) {
    std::error_code gone;  // another process may have been faster
    fs::remove(entries[i].second, gone);
  }
}

}  // namespace vmm::loader
