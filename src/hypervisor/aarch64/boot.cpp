#include "arch/boot.h"

#include <sys/random.h>

#include <array>

#include "arch/address_plan.h"
#include "firmware/fdt/tree.h"

namespace vmm::arch {
namespace {

constexpr std::size_t kCommandLineMax = 2047;  // COMMAND_LINE_SIZE of Linux on arm64, less the NUL
constexpr std::size_t kSeedSize = 40;

Result<void> fill_random(std::span<std::byte> bytes, std::string_view what) {
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return fail_errno("cannot make {}", what);
  }
  return {};
}

}  // namespace

Result<void> write_generation_id(const GuestMemory& memory) {
  std::array<std::byte, 16> id;
  TRY(fill_random(id, "a VM generation ID"));
  return memory.write(kGenerationId, id);
}

Result<Images> load_images(const std::string& kernel, const std::string& initrd,
                           const GuestMemory& memory) {
  Images images{.kernel = TRY(loader::load_arm64_kernel(kernel, memory, kKernel,
                                                        loader::PayloadCache::of_user("kernels"))),
                .initrd = {}};
  if (!initrd.empty()) {
    images.initrd = TRY(loader::load_initrd(initrd, memory, images.kernel.end, kInitrdLast,
                                            loader::PayloadCache::of_user("initrds")));
  }
  return images;
}

Result<EntryPoint> prepare_entry(const Images& images, const std::string& command_line,
                                 const Platform& platform, const GuestMemory& memory) {
  if (command_line.size() > kCommandLineMax) {
    return fail("the kernel's command line has {} characters: expected at most {}",
                command_line.size(), kCommandLineMax);
  }
  fdt::Start start{.ram = {},
                   .command_line = command_line,
                   .initrd = {},
                   .random_seed = std::vector<std::byte>(kSeedSize)};
  for (const auto& region : memory.regions()) start.ram.push_back(region.range);
  if (images.initrd) start.initrd = MemoryRange{images.initrd->address, images.initrd->size};
  TRY(fill_random(start.random_seed, "a random seed"));
  const auto tree = TRY(fdt::build_tree(platform, start));
  if (tree.size() > kDeviceTreeRoom) {
    return fail("the device tree has {} bytes, there is room for {}", tree.size(), kDeviceTreeRoom);
  }
  TRY(memory.write_bytes(kDeviceTree, tree));
  TRY(write_generation_id(memory));
  return EntryPoint{images.kernel.entry};
}

Result<std::vector<std::byte>> firmware_tables(const GuestMemory& memory) {
  const auto room = TRY(memory.slice(kDeviceTree, kDeviceTreeRoom));
  const auto bytes = room.first(fdt::tree_size(room));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

std::string default_command_line(bool serial) {
  // panic=-1: reboot at once, so that a dead guest ends. The rest spares tests and waits.
  std::string line = "quiet panic=-1 cryptomgr.notests random.trust_bootloader=on";
  if (serial) line += " console=ttyAMA0";
  return line;
}

}  // namespace vmm::arch
