// diff and export: what a container has changed, and all that it has.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "src/engine/cli/commands.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/runtime/file_task.h"
#include "src/engine/runtime/tar_files.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;
using protocol::files::Change;

Result<void> export_to(const ContainerMachine& machine, int fd) {
  agent::FileTask task;
  task.kind = agent::FileTask::Kind::pack;
  task.path = "/";
  TarOfFiles tar(fd, "");
  TRY(tar.open());
  TRY(read_files(machine.directory(), task,
                 [&tar](const agent::Message& message) { return tar.take(message); }));
  return tar.finish();
}

}  // namespace

Result<int> diff(const Words& words) {
  const auto machine = TRY(ContainerMachine::open(TRY(default_root()), words.names()[0]));
  agent::FileTask task;
  task.kind = agent::FileTask::Kind::changes;
  TRY(read_files(machine->directory(), task, [](const agent::Message& message) -> Result<void> {
    const auto change = TRY(agent::decode<Change>(message));
    constexpr std::string_view kLetters = "CAD";
    print(fmt::format("{} {}\n", kLetters[static_cast<std::size_t>(change.kind)], change.path));
    return {};
  }));
  TRY(machine->finish());
  return 0;
}

Result<int> export_container(const Words& words) {
  const auto output = words.text("output");
  if (output.empty() && ::isatty(STDOUT_FILENO) != 0) {
    return fail("cowardly refusing to save to a terminal. Use the -o flag or redirect");
  }
  const auto machine = TRY(ContainerMachine::open(TRY(default_root()), words.names()[0]));
  if (output.empty()) {
    TRY(export_to(*machine, STDOUT_FILENO));
    TRY(machine->finish());
    return 0;
  }
  // Written beside, as an archive that was there is worth more than half of another.
  const auto partial = output + ".partial";
  const auto fd = TRY(open_file(partial, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  auto done = export_to(*machine, fd.get());
  if (done && ::rename(partial.c_str(), output.c_str()) < 0) {
    done = fail_errno("cannot create '{}'", output);
  }
  if (!done) {
    (void)::unlink(partial.c_str());  // the error is told
    return std::unexpected(done.error());
  }
  TRY(machine->finish());
  return 0;
}

}  // namespace vmm::engine::cli
