#include "src/disk/raw_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "src/disk/buffers.h"
#include "src/disk/image_lock.h"

namespace vmm::disk {
namespace {

constexpr std::size_t kBounceSize = 1u << 20;
constexpr std::size_t kMaxVectors = 1024;  // IOV_MAX

Result<UniqueFd> open_path(const DiskConfig& config) {
  // O_NONBLOCK, so that a FIFO does not hang. O_EXCL without O_CREAT has a meaning for block
  // devices alone: refused while the host has it mounted.
  struct stat status{};
  const bool known = ::stat(config.path.c_str(), &status) == 0;
  if (known && S_ISDIR(status.st_mode)) {
    return fail("disk '{}' is a directory; name a file or a block device", config.path);
  }
  const bool exclusive = known && S_ISBLK(status.st_mode) && !config.read_only;
  const int flags = (config.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK |
                    (config.direct ? O_DIRECT : 0) | (exclusive ? O_EXCL : 0);
  UniqueFd fd(::open(config.path.c_str(), flags));
  if (fd) return fd;
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
      return fail("disk '{}' does not exist", config.path);
    case EBUSY:
      return fail("disk '{}' is mounted or in use on the host; unmount it, or add ',ro'",
                  config.path);
    case EACCES:
    case EPERM:
    case EROFS:
    case ETXTBSY:
      if (!config.read_only && ::access(config.path.c_str(), R_OK) == 0) {
        return fail("disk '{}' is not writable; add ',ro' to attach it read-only", config.path);
      }
      return fail("disk '{}' is not readable: no permission", config.path);
    case EINVAL:
      if (config.direct) {
        return fail("disk '{}': its file system has no direct I/O; leave ',direct' out",
                    config.path);
      }
      [[fallthrough]];
    default:
      return fail_errno("cannot open disk '{}'", config.path);
  }
}

}  // namespace

Result<std::unique_ptr<RawFile>> RawFile::open(const DiskConfig& config, Content content) {
  auto fd = TRY(open_path(config));
  std::unique_ptr<RawFile> file(
      new RawFile(config.label.empty() ? config.path : config.label, std::move(fd)));
  file->direct_ = config.direct;
  file->info_.read_only = config.read_only;
  TRY(file->check_kind(config.read_only, content));
  // Transfers on a descriptor with O_NONBLOCK would come back with EAGAIN from io_uring.
  const int flags = ::fcntl(file->fd(), F_GETFL);
  if (flags < 0 || ::fcntl(file->fd(), F_SETFL, flags & ~O_NONBLOCK) < 0) {
    return fail_errno("cannot change the flags of disk '{}'", config.path);
  }
  TRY(file->find_block_sizes(content));
  TRY(lock_image(file->fd(), file->name(), config.read_only ? ImageUse::read : ImageUse::write));
  return file;
}

Result<void> RawFile::check_kind(bool read_only, Content content) {
  struct stat status{};
  if (::fstat(fd(), &status) < 0) return fail_errno("cannot examine disk '{}'", name_);
  if (S_ISREG(status.st_mode)) {
    kind_ = Kind::file;
    info_.size = static_cast<std::uint64_t>(status.st_size);
  } else if (S_ISBLK(status.st_mode)) {
    kind_ = Kind::block_device;
    if (::ioctl(fd(), BLKGETSIZE64, &info_.size) < 0) {
      return fail_errno("cannot find the size of disk '{}'", name_);
    }
    // As after `losetup -r` or `blockdev --setro`: it opens for writing all the same.
    int device_read_only = 0;
    if (!read_only && ::ioctl(fd(), BLKROGET, &device_read_only) == 0 && device_read_only != 0) {
      return fail("disk '{}' is a block device set to read-only; add ',ro' to attach it read-only",
                  name_);
    }
  } else {
    return fail("disk '{}' is neither a file nor a block device", name_);
  }
  if (info_.size == 0 && content == Content::disk && kind_ == Kind::block_device) {
    return fail(
        "disk '{}' is a block device without content; attach a medium or a file to it first",
        name_);
  }
  if (info_.size == 0 && content == Content::disk) {
    return fail("disk '{}' is empty; give it a size first, as with 'truncate -s 8G'", name_);
  }
  struct statfs filesystem{};
  if (::fstatfs(fd(), &filesystem) == 0) {
    // A swapped-out page is read in by the copying thread, as for anyone who touches it.
    in_memory_ = kind_ == Kind::file && !direct_ &&
                 (filesystem.f_type == TMPFS_MAGIC || filesystem.f_type == RAMFS_MAGIC);
  }
  info_.can_discard = info_.can_write_zeroes = !read_only;
  return {};
}

Result<void> RawFile::find_block_sizes(Content content) {
  if (kind_ == Kind::block_device) {
    int logical = 0;
    unsigned physical = 0;
    if (::ioctl(fd(), BLKSSZGET, &logical) < 0 || ::ioctl(fd(), BLKPBSZGET, &physical) < 0) {
      return fail_errno("cannot find the block size of disk '{}'", name_);
    }
    info_.block_size = static_cast<std::uint32_t>(logical);
    info_.physical_block_size = std::max(physical, info_.block_size);
    memory_alignment_ = info_.block_size;
  } else {
    info_.block_size = kSectorSize;
    // What the page cache works in; a smaller write costs it a read.
    info_.physical_block_size = 4096;
    memory_alignment_ = 4096;
#ifdef STATX_DIOALIGN
    struct statx status{};
    if (direct_ && ::statx(fd(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) != 0 && status.stx_dio_offset_align != 0) {
      info_.block_size = std::max(kSectorSize, status.stx_dio_offset_align);
      info_.physical_block_size = std::max(info_.physical_block_size, info_.block_size);
      memory_alignment_ = status.stx_dio_mem_align;
    }
#endif
  }
  if (info_.size % info_.block_size != 0 && content == Content::disk) {
    const auto sentence = fmt::format("disk '{}' has {} bytes, which is not a multiple of {}",
                                      name_, info_.size, info_.block_size);
    if (kind_ == Kind::block_device) {
      return fail("{}, the block size of this block device; give it a size that is", sentence);
    }
    return fail("{}; 'truncate -s %{}' rounds it", sentence, info_.block_size);
  }
  return {};
}

// The descriptor's position is nobody's: all transfers name theirs.
Result<DataRange> RawFile::next_data(std::uint64_t offset) const {
  auto found = vmm::next_data(fd(), offset, info_.size);
  if (!found) return fail("disk '{}': {}", name_, found.error().message());
  return found;
}

Result<void> RawFile::grow(std::uint64_t size) {
  if (kind_ != Kind::file) {
    return fail("disk '{}' is a block device, which cannot be resized here", name_);
  }
  struct stat status{};
  if (::fstat(fd(), &status) < 0) return fail_errno("cannot examine disk '{}'", name_);
  const auto now = static_cast<std::uint64_t>(status.st_size);
  if (now < info_.size || now > size) {
    return fail("disk '{}' has {} bytes by now: somebody else resized it", name_, now);
  }
  if (now < size && ::ftruncate(fd(), static_cast<off_t>(size)) < 0) {
    return fail_errno("cannot resize disk '{}'", name_);
  }
  if (::fsync(fd()) < 0) return fail_errno("cannot resize disk '{}'", name_);
  info_.size = size;
  return {};
}

bool RawFile::is_aligned(const Request& request) const {
  if (!direct_) return true;
  return std::all_of(request.buffers.begin(), request.buffers.end(), [this](const iovec& buffer) {
    return reinterpret_cast<std::uintptr_t>(buffer.iov_base) % memory_alignment_ == 0 &&
           buffer.iov_len % info_.block_size == 0;
  });
}

void RawFile::note_flushed(std::uint64_t written) {
  std::uint64_t before = flushed_.load(std::memory_order_relaxed);
  while (before < written &&
         !flushed_.compare_exchange_weak(before, written, std::memory_order_release)) {
  }
}

int RawFile::perform(const Request& request) {
  switch (request.operation) {
    case Operation::read:
      return is_aligned(request) ? transfer(request) : transfer_bounced(request);
    case Operation::write: {
      const int error = is_aligned(request) ? transfer(request) : transfer_bounced(request);
      note_written();
      return error;
    }
    case Operation::flush:
      return flush();
    case Operation::discard: {
      const int error = discard(request.offset, request.length);
      note_written();
      return error;
    }
    case Operation::write_zeroes: {
      const int error = write_zeroes(request);
      note_written();
      return error;
    }
  }
  return ENOTSUP;
}

int RawFile::transfer(const Request& request) const {
  const bool write = request.operation == Operation::write;
  const int flags = request.durable ? RWF_DSYNC : 0;
  std::span<const iovec> left = request.buffers;
  std::vector<iovec> rest;  // what is left after a short transfer
  std::uint64_t offset = request.offset;
  std::uint64_t remaining = request.length;
  while (remaining > 0) {
    const int count = static_cast<int>(std::min(left.size(), kMaxVectors));
    const auto at = static_cast<off_t>(offset);
    ssize_t n = 0;
    if (count == 1 && flags == 0) {
      n = write ? ::pwrite(fd(), left[0].iov_base, left[0].iov_len, at)
                : ::pread(fd(), left[0].iov_base, left[0].iov_len, at);
    } else {
      n = write ? ::pwritev2(fd(), left.data(), count, at, flags)
                : ::preadv2(fd(), left.data(), count, at, flags);
    }
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (n == 0) return EIO;  // someone cut the file
    const auto done = static_cast<std::uint64_t>(n);
    if (done >= remaining) return 0;
    remaining -= done;
    offset += done;
    rest = skip_bytes(left, done);
    left = rest;
  }
  return 0;
}

int RawFile::transfer_bounced(const Request& request) const {
  const std::size_t size = std::min<std::uint64_t>(request.length, kBounceSize);
  const std::size_t alignment = std::max<std::size_t>(memory_alignment_, 4096);
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  const std::unique_ptr<void, decltype(&std::free)> bounce(std::aligned_alloc(alignment, rounded),
                                                           &std::free);
  if (!bounce) return ENOMEM;
  std::vector<iovec> left(request.buffers.begin(), request.buffers.end());
  for (std::uint64_t done = 0; done < request.length;) {
    const iovec piece{bounce.get(), std::min<std::uint64_t>(size, request.length - done)};
    Request aligned = request;
    aligned.buffers = std::span(&piece, 1);
    aligned.offset = request.offset + done;
    aligned.length = piece.iov_len;
    if (request.operation == Operation::write) copy_bytes(left, piece, Direction::from_buffers);
    if (const int error = transfer(aligned); error != 0) return error;
    if (request.operation == Operation::read) copy_bytes(left, piece, Direction::to_buffers);
    left = skip_bytes(left, piece.iov_len);
    done += piece.iov_len;
  }
  return 0;
}

int RawFile::flush() {
  if (is_flushed()) return 0;
  const std::uint64_t covered = written();
  if (::fdatasync(fd()) < 0) return errno;
  note_flushed(covered);
  return 0;
}

void RawFile::warn_unsupported(std::atomic<bool>& supported, const char* what) const {
  // check: unlimited-log allowed, once a feature
  if (supported.exchange(false)) log::info("disk '{}': the host has no {} for it", name_, what);
}

int RawFile::discard(std::uint64_t offset, std::uint64_t length) {
  if (!can_punch_.load(std::memory_order_relaxed)) return 0;  // a hint
  int result = 0;
  if (kind_ == Kind::block_device) {
    std::array<std::uint64_t, 2> range{offset, length};
    result = ::ioctl(fd(), BLKDISCARD, range.data());
  } else {
    result = ::fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(offset), static_cast<off_t>(length));
  }
  if (result == 0) return 0;
  if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
  warn_unsupported(can_punch_, "discard");
  return 0;
}

int RawFile::write_zeroes(const Request& request) {
  const auto offset = static_cast<off_t>(request.offset);
  const auto length = static_cast<off_t>(request.length);
  // A hole reads as zeroes, on a block device too (there, unlike BLKDISCARD, that is promised).
  if (request.may_unmap && can_punch_.load(std::memory_order_relaxed)) {
    if (::fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0) {
      return 0;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
    // A block device may discard all the same, so can_punch_ stays for it.
    if (kind_ == Kind::file) warn_unsupported(can_punch_, "discard");
  }
  if (can_zero_.load(std::memory_order_relaxed)) {
    if (::fallocate(fd(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length) == 0) {
      return 0;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
    warn_unsupported(can_zero_, "quick write of zeroes");
  }
  return fill_zeroes(request.offset, request.length);
}

int RawFile::fill_zeroes(std::uint64_t offset, std::uint64_t length) const {
  alignas(4096) static const std::array<std::byte, 4096> zeroes{};
  std::array<iovec, 256> vectors{};  // a megabyte a call
  while (length > 0) {
    std::size_t count = 0;
    std::uint64_t piece = 0;
    for (; count < vectors.size() && piece < length; ++count) {
      const auto size = std::min<std::uint64_t>(zeroes.size(), length - piece);
      vectors[count] = {const_cast<std::byte*>(zeroes.data()), size};
      piece += size;
    }
    Request write;
    write.operation = Operation::write;
    write.offset = offset;
    write.length = piece;
    write.buffers = std::span(vectors).first(count);
    if (const int error = transfer(write); error != 0) return error;
    offset += piece;
    length -= piece;
  }
  return 0;
}

}  // namespace vmm::disk
