#include "src/base/own_code.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

// By the linker: the first byte of the program, and the one behind its code.
extern "C" const char __executable_start;  // NOLINT(bugprone-reserved-identifier): its name
extern "C" const char etext;

namespace vmm {

void unmap_own_code() {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(&__executable_start);
  const auto end = reinterpret_cast<std::uintptr_t>(&etext) & ~(page - 1);
  // Fails for memory that is locked, which then stays.
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace vmm
