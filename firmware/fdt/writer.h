// Writer: a flattened device tree while it is written (Devicetree Specification 0.4, chapter 5), by
// libfdt. Internal to this folder.
//
//   Writer writer(64 << 10);
//   writer.begin("");
//   writer.cells("#address-cells", {2});
//   writer.strings("compatible", {"linux,dummy-virt"});
//   writer.end();
//   const auto blob = TRY(std::move(writer).finish());
//
// The first error stays, and comes out of finish().
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::fdt {

class Writer {
 public:
  // `room`: bytes that the tree may have.
  explicit Writer(std::size_t room);

  void begin(const std::string& name);
  void end();

  void empty(const char* name);
  // Numbers are stored with their highest byte first; a cell has 32 bits.
  void cells(const char* name, std::span<const std::uint32_t> values);
  void cells(const char* name, std::initializer_list<std::uint32_t> values) {
    cells(name, std::span(values.begin(), values.size()));
  }
  // Two cells a number: addresses and sizes.
  void wide(const char* name, std::span<const std::uint64_t> values);
  void wide(const char* name, std::initializer_list<std::uint64_t> values) {
    wide(name, std::span(values.begin(), values.size()));
  }
  void string(const char* name, const std::string& text);
  void strings(const char* name, std::span<const std::string> texts);
  void strings(const char* name, std::initializer_list<std::string> texts) {
    strings(name, std::span(texts.begin(), texts.size()));
  }
  void bytes(const char* name, std::span<const std::byte> content);

  // Error: the tree has no room.
  Result<std::vector<std::byte>> finish() &&;

 private:
  void check(int result);
  std::vector<std::byte> blob_;
  int error_ = 0;
};

}  // namespace vmm::fdt
