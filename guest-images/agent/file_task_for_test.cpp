// One file task without an agent, for tests/support/fake_machine: file-task TASK ROOT IMAGE
// WRITABLE, where TASK is the fields of a FileTask, two hexadecimal digits a byte.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "guest-images/agent/file_task.h"

int main(int count, char** words) {
  using namespace vmm;
  if (count != 5) return 2;
  std::string fields;
  for (std::string_view left = words[1]; left.size() >= 2; left.remove_prefix(2)) {
    fields.push_back(static_cast<char>(std::stoi(std::string(left.substr(0, 2)), nullptr, 16)));
  }
  (void)::umask(0);
  const auto done = [&]() -> Result<void> {
    const auto task = TRY(protocol::decode_fields<protocol::agent::FileTask>(fields));
    agent::Places places;
    places.root = words[2];
    places.image = words[3];
    places.writable = words[4];
    return agent::run_file_task(task, places, STDIN_FILENO, STDOUT_FILENO);
  }();
  if (done) return 0;
  (void)std::fputs(done.error().message().c_str(), stderr);
  return 1;
}
