#include "src/hypervisor/snapshot/writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "src/base/new_file.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/origin.h"
#include "src/hypervisor/snapshot/reader.h"
#include "src/hypervisor/snapshot/seal.h"

namespace vmm::snapshot {
namespace {

constexpr std::uint64_t kPiece = 4u << 20;  // of memory, written as one

}  // namespace

Result<std::unique_ptr<Writer>> Writer::create(const std::string& directory) {
  const auto absolute = TRY(real_path_of_new(directory));
  if (absolute.ends_with(kPartialSuffix)) {
    return fail("'{}' ends in {}, as what is not a snapshot yet", directory, kPartialSuffix);
  }
  struct stat status{};
  if (::lstat(absolute.c_str(), &status) == 0) {
    return fail("'{}' exists; a snapshot is made under a new name", directory);
  }
  const std::string partial = absolute + std::string(kPartialSuffix);
  if (::mkdir(partial.c_str(), 0700) < 0 && errno != EEXIST) {
    return fail_errno("cannot make '{}'", partial);
  }
  auto handle = lock_partial(partial);
  if (!handle) {
    if (handle.error().code() != EWOULDBLOCK) return std::unexpected(handle.error());
    return fail("a snapshot '{}' is being made by another process", directory);
  }
  TRY(clear_partial(handle->get(), partial));
  return std::unique_ptr<Writer>(new Writer(absolute, partial, std::move(*handle)));
}

// Nothing but its own files was in it at the start.
Writer::~Writer() {
  if (published_) return;
  if (const auto files = list_files(handle_.get(), partial_)) {
    for (const auto& file : *files) (void)::unlinkat(handle_.get(), file.name.c_str(), 0);
  }
  (void)::rmdir(partial_.c_str());  // what stays is listed, and goes with the next save
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

Result<void> Writer::remove_file(std::string_view name) const {
  if (::unlinkat(handle_.get(), std::string(name).c_str(), 0) == 0 || errno == ENOENT) return {};
  return fail_errno("cannot remove '{}'", path_of(name));
}

Result<void> Writer::publish(const Manifest& manifest, Origin origin) {
  const std::string text = to_text(manifest);
  if (text.size() > kMaxManifest) return fail("a manifest of {} bytes is too large", text.size());
  TRY(write_file(kManifestFile, std::as_bytes(std::span(text.data(), text.size()))));
  std::vector<std::string> large = {std::string(kMemoryFile)};
  for (auto& file : manifest.files()) large.push_back(std::move(file.name));
  const std::string seal = make_seal(partial_, large);
  TRY(write_file(kSealFile, std::as_bytes(std::span(seal.data(), seal.size()))));
  if (origin == Origin::machine) {
    const std::string proof = make_origin(TRY(digest_in(text)));
    if (!proof.empty()) TRY(write_file(kOriginFile, std::as_bytes(std::span(proof))));
  }
  TRY(sync_directory(partial_));
  // What no restore would read is not published. Its parents are found from here as from there.
  TRY(Reader::open(partial_, Verify::structure, Hosts::any));
  // RENAME_NOREPLACE: whoever made something of that name meanwhile keeps it.
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, directory_.c_str(), RENAME_NOREPLACE) < 0) {
    return fail_errno("cannot publish the snapshot as '{}'", directory_);
  }
  published_ = true;
  return sync_directory(std::filesystem::path(directory_).parent_path().string());
}

Result<Parent> parent_of(const Writer& writer, const Reader& parent) {
  std::error_code error;
  const auto real = std::filesystem::canonical(parent.directory(), error);
  if (error) return fail("snapshot '{}': {}", parent.directory(), error.message());
  return Parent{real.lexically_relative(writer.directory()).string(), parent.digest()};
}

Result<std::string> write_memory(const Writer& writer, const GuestMemory& memory,
                                 std::span<const Extent> pages, Progress& progress) {
  const auto file = TRY(writer.create_file(kMemoryFile));
  if (::ftruncate(file.get(), static_cast<off_t>(memory.size())) < 0) {
    return fail_errno("cannot make room for '{}'", writer.path_of(kMemoryFile));
  }
  for (const auto& extent : pages) {
    for (std::uint64_t at = 0; at < extent.length; at += kPiece) {
      const Extent piece{extent.offset + at, std::min(kPiece, extent.length - at)};
      if (const auto written = write_pages(memory, {&piece, 1}, file.get()); !written) {
        return fail("cannot write '{}': {}", writer.path_of(kMemoryFile),
                    written.error().message());
      }
      TRY(progress.advance(piece.length));
    }
  }
  if (::fdatasync(file.get()) < 0) {
    return fail_errno("cannot sync '{}'", writer.path_of(kMemoryFile));
  }
  return digest_of_sparse(file.get(), memory.size(), progress);
}

}  // namespace vmm::snapshot
