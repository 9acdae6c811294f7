// diff and export: what a container has changed, and all that it has.
#include <unistd.h>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/output_file.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/runtime/file_task.h"
#include "src/engine/runtime/tar_files.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;
using protocol::files::Change;

Result<void> export_to(const std::string& name, int fd) {
  const auto machine = TRY(ContainerMachine::open(TRY(default_root()), name));
  agent::FileTask task;
  task.kind = agent::FileTask::Kind::pack;
  task.path = "/";
  TarOfFiles tar(fd, "");
  TRY(tar.open());
  TRY(read_files(machine->directory(), task,
                 [&tar](const agent::Message& message) { return tar.take(message); }));
  TRY(tar.finish());
  return machine->finish();
}

}  // namespace

Result<int> diff(const Words& words) {
  const auto machine = TRY(ContainerMachine::open(TRY(default_root()), words.names()[0]));
  agent::FileTask task;
  task.kind = agent::FileTask::Kind::changes;
  TRY(read_files(machine->directory(), task, [](const agent::Message& message) -> Result<void> {
    const auto change = TRY(agent::decode<Change>(message));
    constexpr std::string_view kLetters = "CAD";
    print(fmt::format("{} {}\n", kLetters[static_cast<std::size_t>(change.kind)],
                      one_line(change.path)));
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
  const auto& name = words.names()[0];
  if (output.empty()) {
    TRY(export_to(name, STDOUT_FILENO));
  } else {
    TRY(write_output_file(output, [&name](int fd) { return export_to(name, fd); }));
  }
  return 0;
}

}  // namespace vmm::engine::cli
