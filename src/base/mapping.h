// Mapping: the owner of one mmap'ed range.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <span>

#include "src/base/result.h"

namespace vmm {

class Mapping {
 public:
  Mapping() = default;
  // mmap(2); `size` in bytes, any value above zero. `fd` -1 for anonymous memory.
  static Result<Mapping> create(std::size_t size, int protection, int flags, int fd = -1,
                                off_t offset = 0);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  Mapping(std::byte* data, std::size_t size) : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace vmm
