// What a guest can make of the network process. Each connection is a descriptor and up to 256 KiB
// in libslirp, so all of them stay below the limit of memory. That one is for what libslirp does
// not bound by itself (segments that came out of order, packets that wait for an address): beyond
// it the process ends, and the machine starts it again.
#pragma once

#include <cstddef>

#include "src/base/result.h"

namespace vmm::user_net {

// Once, before the process is confined. `published`: how many ports are at the start.
Result<void> limit_resources(std::size_t published);

// So many ports are published: connections get no more descriptors by it, and no fewer.
void limit_descriptors(std::size_t published);

}  // namespace vmm::user_net
