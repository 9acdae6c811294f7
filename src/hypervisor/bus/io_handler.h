// IoHandler: what answers a guest's access to a range of ports or of memory-mapped registers.
#pragma once

#include <cstdint>

namespace vmm {

// A device may be called from any vCPU thread, several at once, and guards its own state.
// `size` is 1, 2, 4 or 8 bytes and the address is aligned to it; `offset` counts from the start of
// the handler's range, and offset + size never passes its end. A register that is not there reads
// as all ones (or as its specification says) and ignores writes: nothing that a guest does here is
// an error.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  virtual std::uint64_t read(std::uint64_t offset, unsigned size) = 0;
  virtual void write(std::uint64_t offset, unsigned size, std::uint64_t value) = 0;
};

}  // namespace vmm
