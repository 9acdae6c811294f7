// userfaultfd(2), as the page server and the write tracker need it.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm::snapshot {

// Whose faults it is told of. Those of the kernel, KVM's among them, take access to
// /dev/userfaultfd, vm.unprivileged_userfaultfd=1, or CAP_SYS_PTRACE.
enum class FaultsOf : std::uint8_t { program, program_and_kernel };

// `features`: UFFD_FEATURE_*, all of which are there then.
Result<UniqueFd> open_userfaultfd(FaultsOf faults, std::uint64_t features);
// `mode`: UFFDIO_REGISTER_MODE_*. Returns what can be done with the pages, bits by _UFFDIO_*.
Result<std::uint64_t> register_pages(const UniqueFd& userfaultfd, std::span<const std::byte> pages,
                                     std::uint64_t mode);

}  // namespace vmm::snapshot
