// What the network process may still do once it is set up: talk to its machine, and open sockets of
// the Internet. Whoever breaks out of libslirp by a hostile frame finds no files, no programs, no
// other processes, no Unix sockets and no way to listen anew.
#pragma once

#include <cstdint>

#include "src/base/result.h"

namespace vmm::user_net {

enum class Landlock : std::uint8_t { none, some };

// For the rest of the life of this process. Says whether this kernel has Landlock: without it, the
// system call filter alone keeps files away.
Result<Landlock> confine();

// A part of it, for tests: no file is opened, removed, made or changed any more, by Landlock.
Result<Landlock> restrict_files();

}  // namespace vmm::user_net
