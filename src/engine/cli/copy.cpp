// cp: files between a container and the host.
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/copy_rules.h"
#include "src/engine/cli/units.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/runtime/file_task.h"
#include "src/engine/runtime/tar_files.h"
#include "src/files/unpacker.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;
using Kind = agent::FileTask::Kind;
using protocol::files::Piece;

constexpr int kMaxLinks = 10;

struct Copy {
  ContainerMachine& machine;
  CopyPath inside;      // of the container
  std::string outside;  // as it was typed; "-": an archive on a standard stream
  bool archive = false, follow = false;
  std::uint64_t bytes = 0;  // of files that were copied

  std::unexpected<Error> not_found(const std::string& path) const {
    return fail("Could not find the file {} in container {}", path, machine.container().name);
  }
  void count(const agent::Message& message) {
    if (message.type == Piece::kType) bytes += message.fields.size();
  }
};

Result<CopyPath> host_path(const std::string& text) {
  std::error_code error;
  const auto directory = std::filesystem::current_path(error);
  if (error && !text.starts_with('/')) {
    return fail("cannot find the working directory: {}", error.message());
  }
  return CopyPath::clean(text, directory);
}

Result<bool> is_there(const std::string& path, struct stat& status) {
  if (::lstat(path.c_str(), &status) == 0) return true;
  if (errno == ENOENT) return false;
  return fail_errno("lstat {}", path);
}

// The path that a link at the destination stands for, and what is there.
Result<Existing> find_on_host(CopyPath& path) {
  struct stat status{};
  for (int links = 0; TRY(is_there(path.path, status)); ++links) {
    if (!S_ISLNK(status.st_mode)) {
      return S_ISDIR(status.st_mode) ? Existing::directory : Existing::other;
    }
    if (links == kMaxLinks) return fail("too many symlinks in {}", path.path);
    std::error_code error;
    const auto target = std::filesystem::read_symlink(path.path, error);
    if (error) return fail("cannot read the link '{}': {}", path.path, error.message());
    path = CopyPath::clean(target, path.parent());
  }
  return Existing::nothing;
}

Result<Existing> find_in_container(const Copy& copy, CopyPath& path) {
  for (int links = 0;; ++links) {
    const auto entry = TRY(examine_file(copy.machine.directory(), path.path, false));
    if (!entry) return Existing::nothing;
    if (!S_ISLNK(entry->mode)) {
      return S_ISDIR(entry->mode) ? Existing::directory : Existing::other;
    }
    if (links == kMaxLinks) return fail("too many symlinks in {}", path.path);
    path = CopyPath::clean(entry->target, path.parent());
  }
}

// ---- from the container

Result<void> write_archive(Copy& copy, const agent::FileTask& task) {
  if (::isatty(STDOUT_FILENO) != 0) {
    return fail("refusing to write an archive to a terminal: redirect standard output");
  }
  TarOfFiles tar(STDOUT_FILENO, task.name);
  TRY(tar.open());
  TRY(read_files(copy.machine.directory(), task,
                 [&tar](const agent::Message& message) { return tar.take(message); }));
  return tar.finish();
}

Result<void> copy_from(Copy& copy) {
  const auto source = TRY(examine_file(copy.machine.directory(), copy.inside.path, copy.follow));
  if (!source) return copy.not_found(copy.inside.path);
  agent::FileTask task;
  task.kind = Kind::pack;
  task.path = copy.inside.path;
  task.name = copy.inside.name();
  task.follow = copy.follow;
  if (copy.outside == "-") return write_archive(copy, task);
  auto to = TRY(host_path(copy.outside));
  const auto existing = TRY(find_on_host(to));
  const auto target = TRY(copy_target(task.name, S_ISDIR(source->mode), to, existing));
  task.name = target.name;
  const UniqueFd directory(::open(target.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return fail_errno("cannot copy to '{}'", target.directory);
  // Whoever is not root cannot give files away; `cp -a` does not say so either.
  const bool keep = copy.archive && ::geteuid() == 0;
  auto unpacker = TRY(files::Unpacker::open(directory.get(),
                                            {.path = "",
                                             .within = files::Within::directory,
                                             .owner = keep ? files::Owner::kept : files::Owner::own,
                                             .only = target.name == "." ? "" : target.name}));
  TRY(read_files(copy.machine.directory(), task, [&](const agent::Message& message) {
    copy.count(message);
    return unpacker.take(message);
  }));
  return unpacker.take({files::End::kType, ""});
}

// ---- to the container

Result<struct stat> examine_source(const std::string& source, bool follow) {
  const auto path = TRY(host_path(source)).path;
  struct stat status{};
  const int found = follow ? ::stat(path.c_str(), &status) : ::lstat(path.c_str(), &status);
  if (found < 0) return fail_errno("lstat {}", path);
  return status;
}

Result<void> check_directory(const Copy& copy, const std::string& path) {
  const auto entry = TRY(examine_file(copy.machine.directory(), path, true));
  if (!entry) return copy.not_found(path);
  if (!S_ISDIR(entry->mode)) return fail("extraction point is not a directory");
  return {};
}

Result<void> read_archive(Copy& copy, agent::FileTask& task, Existing existing) {
  if (existing != Existing::directory) {
    return fail("destination \"{}:{}\" must be a directory", copy.machine.container().name,
                copy.inside.path);
  }
  task.path = copy.inside.path;
  task.keep_owner = true;  // which the archive says
  FileSource archive(STDIN_FILENO);
  return write_files(copy.machine.directory(), task,
                     [&archive](const files::Send& send) { return send_archive(archive, send); });
}

Result<void> copy_to(Copy& copy) {
  if (copy.machine.container().spec.read_only) return fail("container rootfs is marked read-only");
  const auto existing = TRY(find_in_container(copy, copy.inside));
  agent::FileTask task;
  task.kind = Kind::unpack;
  task.keep_owner = copy.archive;
  if (copy.outside == "-") {
    TRY(read_archive(copy, task, existing));
    return copy.machine.finish();
  }
  const auto from = TRY(host_path(copy.outside));
  const auto status = TRY(examine_source(copy.outside, copy.follow));
  const UniqueFd root(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto target = TRY(copy_target(from.name(), S_ISDIR(status.st_mode), copy.inside, existing));
  TRY(check_directory(copy, target.directory));
  task.path = target.directory;
  TRY(write_files(copy.machine.directory(), task, [&](const files::Send& send) -> Result<void> {
    files::Packer packer([&](const std::string& message) {
      copy.bytes += message.size();
      return send(message);
    });
    TRY(packer.pack(root.get(), {from.path, target.name, copy.follow}));
    return packer.finish();
  }));
  return copy.machine.finish();
}

}  // namespace

Result<int> copy(const Words& words) {
  const auto& names = words.names();
  if (names[0].empty()) return fail("source can not be empty");
  if (names[1].empty()) return fail("destination can not be empty");
  const auto from = parse_copy_name(names[0]), to = parse_copy_name(names[1]);
  if (!from.container.empty() && !to.container.empty()) {
    return fail("copying between containers is not supported");
  }
  if (from.container.empty() && to.container.empty()) {
    return fail("must specify at least one container source");
  }
  const bool leaves = !from.container.empty();
  if (!leaves && from.path != "-") TRY(examine_source(from.path, words.has("follow-link")));
  const auto machine =
      TRY(ContainerMachine::open(TRY(default_root()), leaves ? from.container : to.container));
  Copy copy{*machine,
            CopyPath::clean(leaves ? from.path : to.path, "/"),
            leaves ? to.path : from.path,
            words.has("archive"),
            words.has("follow-link"),
            0};
  TRY(leaves ? copy_from(copy) : copy_to(copy));
  if (leaves) TRY(machine->finish());
  const bool quiet = words.has("quiet") || ::isatty(STDOUT_FILENO) == 0 || copy.outside == "-";
  if (!quiet) {
    fmt::print(stderr, "Successfully copied {} to {}\n", human_size(copy.bytes), names[1]);
  }
  return 0;
}

}  // namespace vmm::engine::cli
