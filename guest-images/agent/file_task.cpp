#include "guest-images/agent/file_task.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "src/files/layer.h"
#include "src/files/packer.h"
#include "src/files/unpacker.h"

namespace vmm::agent {
namespace {

using protocol::agent::FileTask;
using protocol::agent::MessageReader;

constexpr int kDirectory = O_RDONLY | O_DIRECTORY;

// The container's root, as its processes see it: over empty files of the overlay lie those that the
// agent keeps. In a mount namespace of this process. Where the image has something else than a
// file, it sees that.
Result<UniqueFd> open_root_with_own_files(const Places& places) {
  if (::access(places.files.c_str(), F_OK) < 0) return open_file(places.root, kDirectory);
  if (::unshare(CLONE_NEWNS) < 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
    return fail_errno("cannot make a mount namespace");
  }
  auto root = TRY(open_file(places.root, kDirectory));
  for (const char* name : {"hosts", "resolv.conf", "hostname"}) {
    const auto path = places.files + "/" + name;
    const UniqueFd source(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    const auto target =
        files::open_in_root(root.get(), std::string("/etc/") + name, O_PATH | O_NOFOLLOW);
    struct stat status{};
    if (!source || !target || ::fstat(target->get(), &status) < 0 || !S_ISREG(status.st_mode)) {
      continue;
    }
    if (::move_mount(source.get(), "", target->get(), "",
                     MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
      return fail_errno("cannot mount '{}'", path);
    }
  }
  return root;
}

Result<void> unpack(const FileTask& task, int root, int input) {
  auto unpacker = TRY(files::Unpacker::open(
      root, {.path = task.path,
             .within = files::Within::root,
             .owner = task.keep_owner ? files::Owner::kept : files::Owner::root}));
  MessageReader reader;
  std::array<char, 65536> bytes;
  for (;;) {
    const ssize_t n = ::read(input, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read the files");
    if (n == 0) return unpacker.finish();
    reader.append({bytes.data(), static_cast<std::size_t>(n)});
    while (const auto message = TRY(reader.next())) TRY(unpacker.take(*message));
  }
}

Result<void> add_changed(files::Packer& packer, FileTask::Kind kind, const Places& places) {
  const auto upper = TRY(open_file(places.writable + "/upper", kDirectory));
  const auto lower = TRY(open_file(places.image, kDirectory));
  return kind == FileTask::Kind::layer ? files::pack_layer(packer, upper.get(), lower.get())
                                       : files::list_changes(packer, upper.get(), lower.get());
}

}  // namespace

Result<void> run_file_task(const FileTask& task, const Places& places, int input, int output) {
  const bool is_export = task.kind == FileTask::Kind::pack && task.name.empty();
  const auto root =
      TRY(is_export ? open_file(places.root, kDirectory) : open_root_with_own_files(places));
  if (task.kind == FileTask::Kind::unpack) return unpack(task, root.get(), input);
  files::Packer packer([output](const std::string& message) {
    return write_all(output, std::as_bytes(std::span(message)));
  });
  if (task.kind == FileTask::Kind::pack) {
    TRY(packer.pack(root.get(), {task.path, task.name, task.follow}));
  } else if (task.kind == FileTask::Kind::examine) {
    if (const auto entry = TRY(files::examine(root.get(), task.path, task.follow))) {
      TRY(packer.send(*entry));
    }
  } else {
    TRY(add_changed(packer, task.kind, places));
  }
  return packer.finish();
}

}  // namespace vmm::agent
