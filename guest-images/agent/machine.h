// What the host has the machine itself do: identity, mounts, figures, the end.
#pragma once

#include <string>

#include "guest-images/agent/cgroup.h"
#include "guest-images/agent/container.h"
#include "src/base/result.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

protocol::agent::Welcome welcome();
Result<void> configure(const protocol::agent::Configure& request, const Places& places);
// The host name of a container that runs, as it sees it.
Result<void> set_host_name(int first_process, const std::string& name, const Places& places);
// Where the machine has persistent memory: until the kernel has described it, or for some seconds.
void wait_for_mapped_image();
Result<void> mount_root(const protocol::agent::MountRoot& request, const Places& places);
Result<void> mount_share(const protocol::agent::MountShare& request);
// Writes the file `name` of Places::files, which containers see in /etc.
Result<void> write_container_file(const Places& places, const std::string& name,
                                  const std::string& text);
// What was written reaches the disks. Error: of the container's file systems, since the last one.
Result<void> sync_files(const Places& places);
// Ends all processes and the machine; returns only where it is not allowed.
Result<void> power_off(const protocol::agent::PowerOff& request, const Places& places);

}  // namespace vmm::agent
