#include "src/hypervisor/snapshot/catalog.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/archive.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm::snapshot {
namespace {

namespace fs = std::filesystem;

std::string manifest_path(const std::string& directory) {
  return directory + "/" + std::string(kManifestFile);
}

std::uint64_t stored_bytes(const std::string& directory) {
  std::uint64_t total = 0;
  std::error_code error;
  for (const auto& file : fs::directory_iterator(directory, error)) {
    struct stat status{};
    if (::lstat(file.path().c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
      total += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
  }
  return total;
}

// Whether an export made it.
bool is_unfinished_archive(const std::string& path) {
  const auto file = open_regular_file(path);
  return file && begins_as_archive(file->get());
}

// Whether a save made it: nothing else is in it.
bool is_unfinished(const std::string& directory) {
  const auto handle = open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!handle) return false;
  const auto files = list_files(handle->get(), directory);
  return files && std::ranges::all_of(*files, [](const ListedFile& file) {
           return file.regular && is_own_name(file.name);
         });
}

Result<std::size_t> depth_of(std::string directory, Manifest manifest) {
  std::size_t depth = 1;
  for (; manifest.parent; ++depth) {
    if (depth == kMaxDepth) return fail("it has more than {} parents", kMaxDepth - 1);
    directory = parent_directory(directory, manifest);
    const auto text = read_part(directory, kManifestFile, kMaxManifest);
    if (!text && text.error().code() == ENOENT) {
      return fail("its parent '{}' is missing", directory);
    }
    if (!text) return fail("its parent '{}': {}", directory, text.error().message());
    auto parent = TRY(parse_manifest(*text));
    if (TRY(digest_in(*text)) != manifest.parent->digest) {
      return fail("its parent '{}' is another snapshot than the one it was made from", directory);
    }
    manifest = std::move(parent);
  }
  return depth;
}

}  // namespace

std::string parent_directory(const std::string& directory, const Manifest& manifest) {
  if (!manifest.parent) return {};
  const auto& path = manifest.parent->path;
  const auto joined = path.starts_with('/') ? path : directory + "/" + path;
  std::error_code error;
  const auto real = fs::weakly_canonical(joined, error);
  return error ? joined : real.string();
}

Result<CatalogEntry> examine(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return fail("snapshot '{}': there is no such directory", directory);
  }
  const auto text = read_part(directory, kManifestFile, kMaxManifest);
  if (!text) return fail("'{}' is not a snapshot: {}", directory, text.error().message());
  CatalogEntry entry;
  const auto path = fs::absolute(directory, error).lexically_normal();
  entry.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  auto manifest = parse_manifest(*text);
  if (!manifest) return fail("snapshot '{}': {}", directory, manifest.error().message());
  entry.manifest = std::move(*manifest);
  entry.digest = TRY(digest_in(*text));
  entry.stored = stored_bytes(directory);
  if (const auto depth = depth_of(directory, entry.manifest)) {
    entry.depth = *depth;
  } else {
    entry.damage = depth.error().message();
  }
  return entry;
}

Result<std::vector<CatalogEntry>> list(const std::string& directory) {
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error) return fail("cannot list '{}': {}", directory, error.message());
  std::vector<CatalogEntry> found;
  for (const auto& each : entries) {
    const auto path = each.path().string();
    if (path.ends_with(kPartialSuffix)) {
      if (is_unfinished(path)) {
        found.push_back({.name = each.path().filename(),
                         .damage = "its save goes on, or was killed",
                         .stored = stored_bytes(path),
                         .unfinished = true});
      } else if (each.is_regular_file(error) && !each.is_symlink(error) &&
                 is_unfinished_archive(path)) {
        struct stat status{};
        (void)::lstat(path.c_str(), &status);  // gone: it takes no room
        found.push_back({.name = each.path().filename(),
                         .damage = "its export goes on, or was killed",
                         .stored = static_cast<std::uint64_t>(status.st_blocks) * 512,
                         .unfinished = true});
      }
      continue;
    }
    if (!fs::exists(manifest_path(path), error)) continue;
    if (auto entry = examine(path)) {
      found.push_back(std::move(*entry));
    } else {
      found.push_back({.name = each.path().filename(), .damage = entry.error().message()});
    }
  }
  std::ranges::sort(found, {}, &CatalogEntry::name);
  return found;
}

Result<std::vector<std::string>> children_of(const std::string& directory) {
  std::error_code error;
  auto path = fs::canonical(directory, error);
  if (error) return fail("snapshot '{}': there is no such directory", directory);
  std::vector<std::string> names;
  const auto beside = path.parent_path().string();
  for (const auto& entry : TRY(list(beside))) {
    const auto parent = parent_directory(beside + "/" + entry.name, entry.manifest);
    if (!parent.empty() && fs::equivalent(parent, path, error)) names.push_back(entry.name);
  }
  return names;
}

}  // namespace vmm::snapshot
