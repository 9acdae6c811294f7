// What the network process may still do once it is set up: talk to its machine, and open sockets of
// the Internet. Whoever breaks out of libslirp by a hostile frame finds no files, no programs, no
// other processes and no Unix sockets.
#pragma once

#include "src/base/result.h"

namespace vmm::user_net {

// For the rest of the life of this process. Landlock is left out where the kernel has none.
Result<void> confine();

}  // namespace vmm::user_net
