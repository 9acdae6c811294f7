#include "guest-images/agent/file_task.h"

#include <fcntl.h>
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
  const auto root = TRY(open_file(places.root, kDirectory));
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
