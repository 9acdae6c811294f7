// The surroundings of a container's first process, made by that process itself: it is PID 1 in new
// PID, mount, IPC and UTS namespaces and has not run anything of the container yet.
#pragma once

#include <sys/mount.h>

#include <string>

#include "src/base/result.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

// Where the agent keeps what containers see: hosts, resolv.conf, hostname.
struct Places {
  std::string root = "/run/root";          // of the container
  std::string files = "/run/files";        // hosts, resolv.conf, hostname
  std::string image = "/run/image";        // what the root is made of
  std::string writable = "/run/writable";  // over it: upper and work
};

// Of the kernel's own file systems, in the machine and in the container alike.
inline constexpr unsigned long kKernelMountFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

// Mounts and names of the container; afterwards its root is the process's root. Whatever the image
// has in place of directories, symbolic links too, is resolved within that root.
Result<void> enter_new_container(const protocol::agent::Container& container, const Places& places);

// After it, when the terminal is there: mounts ask for it by /dev/console.
Result<void> mount_console(const std::string& terminal);
// Protects what is to be protected, last.
Result<void> close_container(const protocol::agent::Container& container);

// Like `mkdir -p`. Error: something else than a directory is in the way.
Result<void> make_directories(const std::string& path);

}  // namespace vmm::agent
