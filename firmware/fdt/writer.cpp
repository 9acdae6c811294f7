#include "firmware/fdt/writer.h"

#include <libfdt.h>

namespace vmm::fdt {

Writer::Writer(std::size_t room) : blob_(room) {
  check(::fdt_create(blob_.data(), static_cast<int>(blob_.size())));
  check(::fdt_finish_reservemap(blob_.data()));
}

void Writer::check(int result) {
  if (error_ == 0 && result < 0) error_ = result;
}

void Writer::begin(const std::string& name) { check(::fdt_begin_node(blob_.data(), name.c_str())); }

void Writer::end() { check(::fdt_end_node(blob_.data())); }

void Writer::empty(const char* name) { bytes(name, {}); }

void Writer::cells(const char* name, std::span<const std::uint32_t> values) {
  std::vector<fdt32_t> stored;
  for (const auto value : values) stored.push_back(cpu_to_fdt32(value));
  bytes(name, std::as_bytes(std::span(stored)));
}

void Writer::wide(const char* name, std::span<const std::uint64_t> values) {
  std::vector<fdt64_t> stored;
  for (const auto value : values) stored.push_back(cpu_to_fdt64(value));
  bytes(name, std::as_bytes(std::span(stored)));
}

void Writer::string(const char* name, const std::string& text) { strings(name, {text}); }

void Writer::strings(const char* name, std::span<const std::string> texts) {
  std::string joined;
  for (const auto& text : texts) joined += text + '\0';
  bytes(name, std::as_bytes(std::span(joined)));
}

void Writer::bytes(const char* name, std::span<const std::byte> content) {
  check(::fdt_property(blob_.data(), name, content.data(), static_cast<int>(content.size_bytes())));
}

Result<std::vector<std::byte>> Writer::finish() && {
  check(::fdt_finish(blob_.data()));
  if (error_ != 0) return fail("the device tree cannot be written: {}", ::fdt_strerror(error_));
  blob_.resize(fdt_totalsize(blob_.data()));
  return std::move(blob_);
}

}  // namespace vmm::fdt
