#include "devices/virtio/pmem/config.h"

#include <array>
#include <utility>

#include "src/base/text.h"
#include "src/spec/items.h"

namespace vmm::virtio {
namespace {

using disk::ImageFormat;

constexpr std::array<std::pair<std::string_view, ImageFormat>, 2> kFormats = {
    {{"raw", ImageFormat::raw}, {"vmdk", ImageFormat::vmdk}}};

}  // namespace

spec::Fields fields_of(PmemConfig& pmem) {
  using spec::Lead;
  spec::Fields fields("pmem");
  fields.add(spec::host({"path", "path=PATH",
                         "a file, which stays as it is while the machine lives (the first word, "
                         "too)",
                         Lead::value}),
             spec::text(pmem.path));
  fields.add({"size", "size=SIZE",
              "a slot: it has room for SIZE, a multiple of 2M, and may be filled when the machine "
              "is restored; as the first word an empty one",
              Lead::instead},
             spec::checked(spec::size(pmem.slot_size), [&pmem]() -> Result<void> {
               if (pmem.slot_size != 0 && pmem.slot_size <= kMaxPmemSize &&
                   pmem.slot_size % kPmemAlignment == 0) {
                 return {};
               }
               return fail("invalid value '{}': expected a multiple of 2M up to {}", pmem.slot_size,
                           format_size(kMaxPmemSize));
             }));
  fields.add(spec::host({"format", "format=raw|vmdk", "vmdk: a list of files (raw)"}),
             spec::choice(pmem.format, kFormats));
  fields.check_with([&pmem]() -> Result<void> {
    if (!pmem.path.empty() || pmem.format == ImageFormat::automatic) return {};
    return fail("format goes with a path: it says what the file is");
  });
  return fields;
}

Result<PmemConfig> parse_pmem_config(std::string_view words) {
  auto pmem = TRY(spec::from_words<PmemConfig>(words));
  TRY(check(pmem));
  return pmem;
}

Result<void> check(const PmemConfig& pmem) {
  if (!pmem.path.empty() || pmem.slot_size != 0) return {};
  return fail("a path is missing: --pmem PATH, or size=SIZE for a slot");
}

Result<PmemConfig> fill(const PmemConfig& device, const PmemConfig& given) {
  if (given.slot_size != 0 && given.slot_size != device.slot_size) {
    return fail("pmem '{}': size={} is not the device's, which stays: {}", given.path,
                format_size(given.slot_size),
                device.slot_size == 0 ? "its file's" : format_size(device.slot_size));
  }
  auto filled = given;
  filled.slot_size = device.slot_size;
  TRY(check(filled));
  return filled;
}

}  // namespace vmm::virtio
