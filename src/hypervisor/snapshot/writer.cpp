#include "src/hypervisor/snapshot/writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>

#include "src/base/log.h"
#include "src/base/new_file.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/seal.h"

namespace vmm::snapshot {
Result<std::unique_ptr<Writer>> Writer::create(const std::string& directory) {
  std::error_code error;
  auto absolute = std::filesystem::absolute(directory, error).lexically_normal().string();
  if (absolute.ends_with('/')) absolute.pop_back();
  if (error || directory.empty()) return fail("'{}' is no path for a snapshot", directory);
  if (std::filesystem::exists(absolute, error)) {
    return fail("'{}' exists; a snapshot is made under a new name", directory);
  }
  const std::string partial = absolute + ".partial";
  if (::mkdir(partial.c_str(), 0700) < 0 && errno != EEXIST) {
    return fail_errno("cannot make '{}'", partial);
  }
  UniqueFd handle(::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!handle) return fail_errno("cannot open '{}'", partial);
  // The lock goes with the process: what a killed one left behind is nobody's.
  if (::flock(handle.get(), LOCK_EX | LOCK_NB) < 0) {
    return fail("a snapshot '{}' is being made by another process", directory);
  }
  for (const auto& entry : std::filesystem::directory_iterator(partial, error)) {
    std::filesystem::remove_all(entry.path(), error);
  }
  return std::unique_ptr<Writer>(new Writer(absolute, partial, std::move(handle)));
}

Writer::~Writer() {
  if (published_) return;
  std::error_code ignored;
  std::filesystem::remove_all(partial_, ignored);
}

std::string Writer::path_of(std::string_view name) const {
  return (published_ ? directory_ : partial_) + "/" + std::string(name);
}

Result<UniqueFd> Writer::create_file(std::string_view name) const {
  UniqueFd fd(::openat(handle_.get(), std::string(name).c_str(),
                       O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("cannot make '{}'", path_of(name));
  return fd;
}

Result<void> Writer::write_file(std::string_view name, std::span<const std::byte> bytes) const {
  const auto fd = TRY(create_file(name));
  if (const auto written = write_all(fd.get(), bytes); !written) {
    return fail("cannot write '{}': {}", path_of(name), written.error().message());
  }
  if (::fsync(fd.get()) < 0) return fail_errno("cannot sync '{}'", path_of(name));
  return {};
}

Result<void> Writer::publish(const Manifest& manifest) {
  const std::string text = to_text(manifest);
  TRY(write_file(kManifestFile, std::as_bytes(std::span(text.data(), text.size()))));
  std::vector<std::string> large = {std::string(kMemoryFile)};
  for (const auto& disk : manifest.disks) {
    if (!disk.file.empty()) large.push_back(disk.file);
  }
  const std::string seal = make_seal(partial_, large);
  TRY(write_file(kSealFile, std::as_bytes(std::span(seal.data(), seal.size()))));
  TRY(sync_directory(partial_));
  // RENAME_NOREPLACE: whoever made something of that name meanwhile keeps it.
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, directory_.c_str(), RENAME_NOREPLACE) < 0) {
    return fail_errno("cannot publish the snapshot as '{}'", directory_);
  }
  published_ = true;
  return sync_directory(std::filesystem::path(directory_).parent_path().string());
}

Result<std::string> write_memory(const Writer& writer, const GuestMemory& memory,
                                 std::span<const Extent> pages) {
  const auto file = TRY(writer.create_file(kMemoryFile));
  if (::ftruncate(file.get(), static_cast<off_t>(memory.size())) < 0) {
    return fail_errno("cannot make room for the memory's file");
  }
  TRY(write_pages(memory, pages, file.get()));
  if (::fdatasync(file.get()) < 0) return fail_errno("cannot sync the memory's file");
  return digest_of_sparse(file.get(), memory.size());
}

}  // namespace vmm::snapshot
