// The control group of the container: its limits, and what it uses.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

class Cgroup {
 public:
  // Makes `path`, of cgroup v2, and has its parent give it the controllers.
  static Result<Cgroup> create(const std::string& path);

  int descriptor() const { return directory_.get(); }
  // What `container` does not limit is without limit, whatever was before.
  Result<void> set_limits(const protocol::agent::Container& container) const;
  // Frozen, its processes stand still when this returns. Error: one of them does not within
  // `patience`; they are to be thawed then.
  Result<void> freeze(bool frozen, std::chrono::milliseconds patience) const;
  // How often the kernel has killed a process for the memory limit, ever.
  std::uint64_t out_of_memory() const;
  protocol::agent::Usage usage() const;
  // Of all processes in it, in the numbers of the agent's namespace.
  std::vector<protocol::agent::RunningProcess> processes() const;

 private:
  Cgroup(std::string path, UniqueFd directory)
      : path_(std::move(path)), directory_(std::move(directory)) {}
  Result<void> wait_until_frozen(std::chrono::milliseconds patience) const;
  Result<void> write(const char* file, const std::string& value) const;
  std::string read(const char* file) const;

  std::string path_;
  UniqueFd directory_;
};

}  // namespace vmm::agent
