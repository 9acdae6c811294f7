#include "firmware/loader/boot_params.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "firmware/little_endian.h"
#include "firmware/loader/bzimage.h"
#include "firmware/loader/setup_header.h"

namespace vmm::loader {
namespace {

constexpr std::size_t kPage = 4096;

// Offsets (zero-page.rst; boot.rst for those of the setup header).
constexpr std::size_t kRsdpAddress = 0x070;
constexpr std::size_t kInitrdAddressHigh = 0x0c0;
constexpr std::size_t kInitrdSizeHigh = 0x0c4;
constexpr std::size_t kCommandLineHigh = 0x0c8;
constexpr std::size_t kMemoryMapEntries = 0x1e8;
constexpr std::size_t kLoaderType = 0x210;
constexpr std::size_t kInitrdAddress = 0x218;
constexpr std::size_t kInitrdSize = 0x21c;
constexpr std::size_t kCommandLine = 0x228;
constexpr std::size_t kMemoryMap = 0x2d0;
constexpr std::size_t kMemoryMapEntrySize = 20;
static_assert(kMemoryMap + kMaxMemoryMapEntries * kMemoryMapEntrySize <= kPage);

constexpr std::uint8_t kLoaderUnregistered = 0xff;

using ZeroPage = std::array<std::byte, kPage>;

// What a vmlinux without a bzImage around it would say of itself.
void write_default_header(ZeroPage& page, const LinuxBoot& boot) {
  put_le(page, setup::kBootFlag, std::uint16_t{0xaa55});
  std::memcpy(page.data() + setup::kHeaderMagic, "HdrS", 4);
  put_le(page, setup::kVersion, std::uint16_t{0x020f});
  put_le(page, setup::kLoadFlags, std::uint8_t{1});  // loaded high
  put_le(page, setup::kAlignment, std::uint32_t{0x1000000});
  put_le(page, setup::kCommandLineMax, boot.command_line_max);
}

void put_split(ZeroPage& page, std::size_t low, std::size_t high, std::uint64_t value) {
  put_le(page, low, static_cast<std::uint32_t>(value));
  put_le(page, high, static_cast<std::uint32_t>(value >> 32));
}

}  // namespace

Result<void> write_boot_params(const LinuxBoot& boot, const BootLayout& layout,
                               const GuestMemory& memory) {
  const auto map = TRY(memory_map(boot));
  TRY(write_command_line(boot, layout, memory));

  ZeroPage page{};
  if (boot.setup_header.empty()) {
    write_default_header(page, boot);
  } else {
    const std::size_t size =
        std::min(boot.setup_header.size(), kSetupHeaderLimit - kSetupHeaderOffset);
    std::memcpy(page.data() + kSetupHeaderOffset, boot.setup_header.data(), size);
  }
  put_le(page, kLoaderType, kLoaderUnregistered);
  put_split(page, kCommandLine, kCommandLineHigh, layout.command_line.value);
  if (boot.initrd) {
    put_split(page, kInitrdAddress, kInitrdAddressHigh, boot.initrd->address.value);
    put_split(page, kInitrdSize, kInitrdSizeHigh, boot.initrd->size);
  }
  if (boot.rsdp) put_le(page, kRsdpAddress, boot.rsdp->value);
  put_le(page, kMemoryMapEntries, static_cast<std::uint8_t>(map.size()));
  for (std::size_t i = 0; i < map.size(); ++i) {
    const std::size_t at = kMemoryMap + i * kMemoryMapEntrySize;
    put_le(page, at, map[i].base.value);
    put_le(page, at + 8, map[i].size);
    put_le(page, at + 16, static_cast<std::uint32_t>(map[i].type));
  }
  return memory.write_bytes(layout.info, page);
}

}  // namespace vmm::loader
