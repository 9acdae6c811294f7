#include "src/engine/store/content_store.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "src/base/new_file.h"

namespace vmm::engine {
namespace {

constexpr std::array kKinds = {Content::blob, Content::layer, Content::merged};

std::string_view folder_of(Content kind) {
  switch (kind) {
    case Content::blob:
      return "blobs";
    case Content::layer:
      return "layers";
    case Content::merged:
      return "merged";
  }
  return {};
}

}  // namespace

TemporaryFile::TemporaryFile(TemporaryFile&& other) noexcept
    : path_(std::exchange(other.path_, {})), fd_(std::move(other.fd_)) {}

TemporaryFile& TemporaryFile::operator=(TemporaryFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

TemporaryFile::~TemporaryFile() {
  if (!path_.empty()) (void)::unlink(path_.c_str());  // or the next command does
}

Result<UniqueFd> TemporaryFile::reopen() const { return open_file(path_, O_RDWR); }

Result<ContentStore> ContentStore::open(std::string root) {
  ContentStore store(std::move(root));
  for (const auto kind : kKinds) TRY(create_directories(store.directory(kind)));
  TRY(create_directories(store.root_ + "/tmp"));
  return store;
}

std::string ContentStore::directory(Content kind) const {
  return fmt::format("{}/{}/sha256", root_, folder_of(kind));
}

std::string ContentStore::path(Content kind, const Digest& digest) const {
  return fmt::format("{}/{}", directory(kind), digest.hex());
}

bool ContentStore::has(Content kind, const Digest& digest) const {
  return ::access(path(kind, digest).c_str(), F_OK) == 0;
}

Result<UniqueFd> ContentStore::open_content(Content kind, const Digest& digest) const {
  return open_file(path(kind, digest), O_RDONLY);
}

Result<std::string> ContentStore::read_blob(const Digest& digest, std::size_t limit) const {
  auto text = TRY(read_text_file(path(Content::blob, digest), limit));
  if (Digest::of(text) != digest) return fail("blob {}: digest mismatch", digest.text());
  return text;
}

Result<TemporaryFile> ContentStore::temporary() const {
  std::string path = root_ + "/tmp/XXXXXX";
  UniqueFd fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd) return fail_errno("cannot create a file in '{}/tmp'", root_);
  return TemporaryFile(std::move(path), std::move(fd));
}

Result<void> ContentStore::publish(TemporaryFile file, Content kind, const Digest& digest) const {
  if (!file.fd_) file.fd_ = TRY(file.reopen());
  if (::fchmod(file.fd(), 0444) < 0 || ::fsync(file.fd()) < 0) {
    return fail_errno("cannot write '{}'", file.path());
  }
  const auto target = path(kind, digest);
  if (::rename(file.path().c_str(), target.c_str()) < 0) {
    return fail_errno("cannot create '{}'", target);
  }
  file.path_.clear();
  return {};
}

Result<void> ContentStore::sync_names() const {
  for (const auto kind : kKinds) TRY(sync_directory(directory(kind)));
  return {};
}

Result<Digest> ContentStore::add_blob(std::string_view content) const {
  const auto digest = Digest::of(content);
  if (has(Content::blob, digest)) return digest;
  auto file = TRY(temporary());
  TRY(write_all(file.fd(), std::as_bytes(std::span(content))));
  TRY(publish(std::move(file), Content::blob, digest));
  return digest;
}

Result<std::vector<Digest>> ContentStore::list(Content kind) const {
  std::vector<Digest> digests;
  std::error_code error;
  for (std::filesystem::directory_iterator at(directory(kind), error), end; !error && at != end;
       at.increment(error)) {
    auto digest = Digest::parse("sha256:" + at->path().filename().string());
    if (digest) digests.push_back(std::move(*digest));
  }
  if (error) return fail("cannot list '{}': {}", directory(kind), error.message());
  return digests;
}

Result<std::uint64_t> ContentStore::remove(Content kind, const Digest& digest) const {
  const auto name = path(kind, digest);
  struct stat status{};
  if (::lstat(name.c_str(), &status) < 0 || ::unlink(name.c_str()) < 0) {
    if (errno == ENOENT) return 0;
    return fail_errno("cannot remove '{}'", name);
  }
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

Result<void> ContentStore::remove_temporary_files() const {
  std::error_code error;
  for (std::filesystem::directory_iterator at(root_ + "/tmp", error), end; !error && at != end;
       at.increment(error)) {
    std::filesystem::remove_all(at->path(), error);
  }
  if (error) return fail("cannot empty '{}/tmp': {}", root_, error.message());
  return {};
}

Result<BlobWriter> BlobWriter::create(const ContentStore& store) {
  return BlobWriter(TRY(store.temporary()));
}

Result<void> BlobWriter::write(std::span<const std::byte> bytes) {
  TRY(write_all(file_.fd(), bytes));
  hash_.update(bytes);
  size_ += bytes.size();
  return {};
}

BlobWriter::Written BlobWriter::finish() { return {std::move(file_), hash_.finish(), size_}; }

}  // namespace vmm::engine
