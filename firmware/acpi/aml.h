// AML, the byte code of ACPI: one function a term of the grammar (ACPI 6.5, chapter 20). Each takes
// the terms that it holds and returns its encoding, so that code reads like the ASL it stands for:
//
//   using namespace vmm::acpi::aml;
//   Aml code = device("COM1", {
//       name("_HID", eisa_id("PNP0501")),
//       name("_CRS", resource_template({io_ports(0x3f8, 8),
//                                       interrupt(4, Trigger::edge, Polarity::active_high)})),
//   });
//
// Names are given in full, four characters a segment ("_SB_"); paths are joined by dots and may
// start with a backslash. What comes from outside is checked by the caller, see is_name_segment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace vmm::acpi::aml {

using Aml = std::vector<std::byte>;
using Terms = std::vector<Aml>;

bool is_name_segment(std::string_view name);
// Three letters and four hexadecimal digits, as "PNP0501".
bool is_eisa_id(std::string_view id);

// --- Data ---
Aml integer(std::uint64_t value);
Aml string(std::string_view text);  // ASCII without NUL
Aml buffer(std::span<const std::byte> bytes);
Aml package(const Terms& elements);  // at most 255
Aml eisa_id(std::string_view id);    // requires is_eisa_id(id)

// --- Objects ---
Aml path(std::string_view path);
Aml name(std::string_view path, const Aml& value);
Aml scope(std::string_view path, const Terms& body);
Aml device(std::string_view path, const Terms& body);
enum class Serialized : std::uint8_t { no, yes };
Aml method(std::string_view path, unsigned arguments, Serialized serialized, const Terms& body);
enum class Space : std::uint8_t { memory = 0, io = 1 };
Aml operation_region(std::string_view path, Space space, std::uint64_t offset, std::uint64_t size);
struct FieldUnit {
  std::string_view name;  // a segment
  std::uint32_t bits = 0;
};
enum class Access : std::uint8_t { any = 0, byte = 1, word = 2, dword = 3, qword = 4 };
// NoLock, WriteAsZeros.
Aml field(std::string_view region, Access access, std::span<const FieldUnit> units);

// --- Statements and expressions ---
Aml local(unsigned index);  // 0..7
Aml store(const Aml& source, const Aml& target);
Aml bit_and(const Aml& a, const Aml& b);
Aml if_then(const Aml& condition, const Terms& body);
Aml notify(std::string_view object, std::uint8_t value);

// --- Resource descriptors (ACPI 6.5, 6.4) ---
struct Resource {
  Aml bytes;
};
enum class Trigger : std::uint8_t { level = 0, edge = 1 };
enum class Polarity : std::uint8_t { active_high = 0, active_low = 1 };
Resource io_ports(std::uint16_t base, std::uint8_t size);
Resource memory32_fixed(std::uint32_t base, std::uint32_t size);
Resource interrupt(std::uint32_t gsi, Trigger trigger, Polarity polarity);
// What a bridge passes on (producer) or a device occupies (consumer). `first` and `last` included.
enum class Usage : std::uint8_t { producer = 0, consumer = 1 };
Resource bus_numbers(std::uint16_t first, std::uint16_t last);
Resource memory32(Usage usage, std::uint32_t first, std::uint32_t last);
Resource memory64(Usage usage, std::uint64_t first, std::uint64_t last);
Aml resource_template(const std::vector<Resource>& resources);

}  // namespace vmm::acpi::aml
