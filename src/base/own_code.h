// The program's own code, as memory.
#pragma once

namespace vmm {

// Takes the code out of the process's page tables: what runs on is mapped again as it is reached,
// what only a start needs is not, and counts as memory of this process no more. Any thread, at any
// time: code is only read, but for a debugger's breakpoints, which are lost.
void unmap_own_code();

}  // namespace vmm
