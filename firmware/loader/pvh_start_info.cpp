#include "firmware/loader/pvh_start_info.h"

#include <vector>

#include "firmware/little_endian.h"

namespace vmm::loader {
namespace {

constexpr std::uint32_t kPvhMagic = 0x336ec578;
constexpr std::size_t kStartInfoSize = 56;
constexpr std::size_t kModuleSize = 32;
constexpr std::size_t kMemoryMapEntrySize = 24;
constexpr std::size_t kModuleOffset = 64;
constexpr std::size_t kMemoryMapOffset = kModuleOffset + kModuleSize;
static_assert(kMemoryMapOffset + kMaxMemoryMapEntries * kMemoryMapEntrySize <= 4096);
static_assert(kStartInfoSize <= kModuleOffset);

}  // namespace

Result<void> write_pvh_start_info(const LinuxBoot& boot, const BootLayout& layout,
                                  const GuestMemory& memory) {
  if (layout.info.value >= 1ull << 32) {
    return fail("the PVH start information at {:#x} is not below 4 GiB", layout.info.value);
  }
  const auto map = TRY(memory_map(boot));
  TRY(write_command_line(boot, layout, memory));

  std::vector<std::byte> page;
  append_le(page, kPvhMagic);
  append_le(page, std::uint32_t{1});  // version
  append_le(page, std::uint32_t{0});  // flags
  append_le(page, std::uint32_t{boot.initrd ? 1u : 0u});
  append_le(page, boot.initrd ? (layout.info + kModuleOffset).value : std::uint64_t{0});
  append_le(page, layout.command_line.value);
  append_le(page, boot.rsdp ? boot.rsdp->value : std::uint64_t{0});
  append_le(page, (layout.info + kMemoryMapOffset).value);
  append_le(page, static_cast<std::uint32_t>(map.size()));
  append_le(page, std::uint32_t{0});
  page.resize(kModuleOffset);
  append_le(page, boot.initrd ? boot.initrd->address.value : std::uint64_t{0});
  append_le(page, boot.initrd ? boot.initrd->size : std::uint64_t{0});
  page.resize(kMemoryMapOffset);  // the module has no command line
  for (const MemoryMapEntry& entry : map) {
    append_le(page, entry.base.value);
    append_le(page, entry.size);
    append_le(page, static_cast<std::uint32_t>(entry.type));
    append_le(page, std::uint32_t{0});
  }
  return memory.write_bytes(layout.info, page);
}

}  // namespace vmm::loader
