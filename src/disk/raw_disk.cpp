#include "src/disk/raw_disk.h"

#include "src/disk/file_channel.h"

namespace vmm::disk {

Result<std::unique_ptr<RawDisk>> RawDisk::open(const DiskConfig& config) {
  auto file = TRY(RawFile::open(config));
  if (config.io == IoEngine::uring) {
    // Asked for by name, so told now rather than at the first request.
    if (const auto probe = UringEngine::create(*file); !probe) {
      return fail("disk '{}': {}; leave ',io=uring' out", config.path, probe.error().message());
    }
  }
  return std::unique_ptr<RawDisk>(new RawDisk(std::move(file), config.io));
}

std::unique_ptr<Channel> RawDisk::open_channel(EventLoop& loop, std::function<void()> ready) {
  return std::make_unique<FileChannel>(*file_, io_, loop, std::move(ready));
}

Result<void> RawDisk::sync() {
  Request flush;
  flush.operation = Operation::flush;
  if (const int error = file_->perform(flush); error != 0) {
    errno = error;
    return fail_errno("cannot flush disk '{}'", name());
  }
  return {};
}

Result<void> RawDisk::read(std::uint64_t offset, std::span<std::byte> target) {
  const iovec buffer{target.data(), target.size()};
  const Request request{.operation = Operation::read,
                        .offset = offset,
                        .length = target.size(),
                        .buffers = std::span(&buffer, 1)};
  if (const int error = file_->perform(request); error != 0) {
    errno = error;
    return fail_errno("cannot read disk '{}'", name());
  }
  return {};
}

int RawDisk::plain_file() const { return file_->kind() == RawFile::Kind::file ? file_->fd() : -1; }

}  // namespace vmm::disk
