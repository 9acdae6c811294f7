// Bus: finds the handler of an address. One for ports, one for memory-mapped registers.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "src/base/result.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm {

class Bus {
 public:
  // Ranges are added while the machine is assembled and never overlap; `name` is for the error.
  // The handler outlives the bus's last access.
  Result<void> add(std::uint64_t base, std::uint64_t size, IoHandler& handler, std::string name);

  // Any vCPU thread. An address that nobody owns reads as all ones; writes to it are lost. So is an
  // access of another size than 1, 2, 4 or 8 bytes, or one that is not aligned to its size.
  std::uint64_t read(std::uint64_t address, unsigned size) const;
  void write(std::uint64_t address, unsigned size, std::uint64_t value) const;

 private:
  struct Entry {
    std::uint64_t base;
    std::uint64_t size;
    IoHandler* handler;
    std::string name;
  };
  const Entry* find(std::uint64_t address, unsigned size) const;

  std::map<std::uint64_t, Entry> entries_;  // by base
};

}  // namespace vmm
