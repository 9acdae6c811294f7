#include "src/disk/image_lock.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "src/base/log.h"

namespace vmm::disk {
namespace {

// Far from QEMU's bytes; programs that lock the start of a file or all of it mean something else.
constexpr off_t kOwnByte = 0x766d6d;

// QEMU: who needs a permission holds its byte from 100 on, who does not let others have it holds
// the one from 200 on; all locks are shared, and each side tests the other's bytes.
constexpr off_t kPermissionBase = 100;
constexpr off_t kUnsharedBase = 200;
constexpr int kPermissions = 64;
constexpr std::uint32_t kConsistentRead = 1u << 0;
constexpr std::uint32_t kWrite = 1u << 1;
constexpr std::uint32_t kResize = 1u << 3;

struct flock byte_range(off_t byte, off_t count, short type) {
  struct flock range{};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = byte;
  range.l_len = count;
  return range;
}

// 0 or an errno.
int set_lock(int fd, off_t byte, short type, off_t count = 1) {
  auto range = byte_range(byte, count, type);
  return ::fcntl(fd, F_OFD_SETLK, &range) == 0 ? 0 : errno;
}

bool is_locked_by_another(int fd, off_t byte) {
  auto range = byte_range(byte, 1, F_WRLCK);
  return ::fcntl(fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

bool is_conflict(int error) { return error == EAGAIN || error == EACCES; }

int for_each_permission(std::uint32_t permissions, auto&& act) {
  for (int bit = 0; permissions >> bit != 0; ++bit) {
    if ((permissions >> bit & 1) == 0) continue;
    if (const int error = act(bit); error != 0) return error;
  }
  return 0;
}

// Some network file systems have no locks at all: not a reason to refuse the image.
Result<void> no_locks(std::string_view name, int error) {
  // check: unlimited-log allowed, once a file
  log::warn("disk '{}' cannot be locked ({}); nothing stops a second program from using it", name,
            std::strerror(error));
  return {};
}

// The caller may keep the file open, or a child process of its.
void let_go(int fd) {
  (void)set_lock(fd, kPermissionBase, F_UNLCK, kPermissions);
  (void)set_lock(fd, kUnsharedBase, F_UNLCK, kPermissions);
  (void)set_lock(fd, kOwnByte, F_UNLCK);
}

Result<void> lock_for_qemu(int fd, std::string_view name, ImageUse use) {
  const std::uint32_t needed =
      use == ImageUse::write ? kConsistentRead | kWrite | kResize : kConsistentRead;
  constexpr std::uint32_t kUnshared = kWrite | kResize;
  // First taken, then tested, as QEMU does: of two who start at once at least one sees the other.
  int error = for_each_permission(
      needed, [&](int bit) { return set_lock(fd, kPermissionBase + bit, F_RDLCK); });
  if (error == 0) {
    error = for_each_permission(
        kUnshared, [&](int bit) { return set_lock(fd, kUnsharedBase + bit, F_RDLCK); });
  }
  if (error != 0 && !is_conflict(error)) return no_locks(name, error);
  const auto tested = [&](off_t base) {
    return [fd, base](int bit) { return is_locked_by_another(fd, base + bit) ? EAGAIN : 0; };
  };
  const bool written = for_each_permission(kUnshared, tested(kPermissionBase)) != 0;
  if (error == 0 && !written && for_each_permission(needed, tested(kUnsharedBase)) == 0) return {};
  let_go(fd);
  if (written) {
    return fail(
        "disk '{}' is in use by another program, such as QEMU, that writes to it; end that "
        "program first",
        name);
  }
  return fail(
      "disk '{}' is in use by another program, such as QEMU, that does not let others {}; "
      "end that program first",
      name, use == ImageUse::write ? "write to it" : "read it");
}

}  // namespace

Result<void> lock_image(int fd, std::string_view name, ImageUse use) {
  const int error = set_lock(fd, kOwnByte, use == ImageUse::write ? F_WRLCK : F_RDLCK);
  if (error == 0) return lock_for_qemu(fd, name, use);
  if (!is_conflict(error)) return no_locks(name, error);
  if (use == ImageUse::read) {
    return fail("disk '{}' is in use by another vmm that writes to it; stop that machine first",
                name);
  }
  return fail(
      "disk '{}' is in use by another vmm; stop that machine first, or use the disk read-only in "
      "both",
      name);
}

}  // namespace vmm::disk
