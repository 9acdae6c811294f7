// Table: one ACPI table while it is written. Internal to this folder.
//
//   Table mcfg("MCFG", 1);
//   mcfg.add(std::uint64_t{0});
//   std::vector<std::byte> bytes = std::move(mcfg).finish();   // length and checksum filled in
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "firmware/little_endian.h"
#include "firmware/platform.h"

namespace vmm::acpi {

constexpr std::string_view kOemId = "VMM   ";         // 6 bytes
constexpr std::string_view kOemTableId = "VMMTABLE";  // 8 bytes
constexpr std::string_view kCompilerId = "VMM ";      // 4 bytes
constexpr std::size_t kTableHeaderSize = 36;          // 5.2.6
constexpr std::uint64_t kBelow4GiB = 1ull << 32;      // the end of what 32 bits reach

// The value that makes all bytes add up to zero modulo 256.
std::uint8_t checksum(std::span<const std::byte> bytes);

class Table {
 public:
  Table(std::string_view signature, std::uint8_t revision);

  template <std::unsigned_integral T>
  void add(T value) {
    append_le(bytes_, value);
  }
  void add(std::string_view text);
  void add(std::span<const std::byte> bytes);
  void add_zeroes(std::size_t count) { bytes_.resize(bytes_.size() + count); }
  // A Generic Address Structure (5.2.3.2) of one register of eight bits.
  void add(const PlatformRegister& reg);

  std::vector<std::byte> finish() &&;

 private:
  std::vector<std::byte> bytes_;
};

// The differentiated table: the devices. `platform` has been checked.
std::vector<std::byte> build_dsdt(const Platform& platform);

// The names in \_SB that build_dsdt takes for itself.
std::span<const std::string_view> reserved_names();

}  // namespace vmm::acpi
