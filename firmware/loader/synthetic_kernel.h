// For tests: small ELF kernels and bzImages, in every compression, made on the spot.
//
//   const auto vmlinux = make_elf({});
//   const auto bzimage = make_bzimage(vmlinux, Compression::xz, {});
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "firmware/loader/decompress.h"

namespace vmm::loader::testing {

using Bytes = std::vector<std::byte>;

struct ElfOptions {
  std::uint64_t text = 0x1000000;  // physical; the data segment follows 2 MiB above
  std::uint64_t entry = 0x1000000;
  std::optional<std::uint64_t> pvh_entry = 0x1000100;
  std::uint16_t machine = 62;
  bool is_linux = false;  // has a note that says so
};
// Two segments of 8 KiB and 4 KiB in the file, the second with 64 KiB in memory, and notes.
Bytes make_elf(const ElfOptions& options);
constexpr std::size_t kTextOffset = 0x1000;
constexpr std::size_t kTextSize = 0x2000;
constexpr std::size_t kDataOffset = 0x3000;
constexpr std::size_t kDataSize = 0x1000;
constexpr std::uint64_t kDataDistance = 0x200000;
constexpr std::uint64_t kDataMemorySize = 0x10000;

// One stream, with no size appended. bzip2, lzma and lzo only get their magic.
Bytes compress(std::span<const std::byte> bytes, Compression kind);

struct BzImageOptions {
  std::uint16_t version = 0x020f;
  std::uint16_t extended_load_flags = 1;  // XLF_KERNEL_64
  std::uint8_t load_flags = 1;            // LOADED_HIGH
  std::uint32_t init_size = 0x20000;
  std::uint64_t preferred_address = 0x1000000;
};
Bytes make_bzimage(std::span<const std::byte> payload, Compression kind,
                   const BzImageOptions& options);

// A directory that goes with its object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  // Writes a file and returns its path.
  std::string file(const std::string& name, std::span<const std::byte> bytes) const;

 private:
  std::string path_;
};

}  // namespace vmm::loader::testing
