#include "firmware/loader/kernel.h"

#include <elf.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "firmware/little_endian.h"
#include "src/base/text.h"

namespace vmm::loader {
namespace {

// A kernel without a setup header says neither. 2047 is COMMAND_LINE_SIZE of Linux on x86; the
// address is what every bzImage for x86-64 says.
constexpr std::uint64_t kDefaultInitrdAddressMax = 0x7fffffff;
constexpr std::uint32_t kDefaultCommandLineMax = 2047;

constexpr std::uint64_t kEntry64Offset = 0x200;

bool has_magic(std::span<const std::byte> head, std::size_t offset, std::string_view magic) {
  return head.size() >= offset + magic.size() &&
         std::memcmp(head.data() + offset, magic.data(), magic.size()) == 0;
}

// What the file is, when it is something else than a kernel for this machine.
std::unexpected<Error> not_a_kernel(const std::string& path, std::span<const std::byte> head,
                                    std::uint64_t size) {
  if (has_magic(head, 0x38, "ARM\x64")) {
    return fail("'{}' is a kernel for arm64, this machine is x86-64", path);
  }
  if (has_magic(head, 0x38, "RSC\x05")) {
    return fail("'{}' is a kernel for riscv, this machine is x86-64", path);
  }
  if (has_magic(head, 0, "MZ") && has_magic(head, 4, "zimg")) {
    return fail("'{}' is a compressed EFI kernel of another architecture, not a bzImage", path);
  }
  const Compression compression = detect_compression(head);
  if (compression != Compression::unknown) {
    return fail("'{}' is compressed by {}, it has to be decompressed first", path,
                compression_name(compression));
  }
  if (size < kSetupHeaderLimit) {
    return fail("'{}' has {} bytes, too few for a kernel", path, size);
  }
  return fail("'{}' is not a kernel: neither a bzImage nor an ELF file", path);
}

Result<KernelImage> open_cached(const std::string& path, PayloadCache::Entry entry) {
  KernelImage image{.path = path,
                    .source = ImageSource::file(std::move(entry.file), entry.payload_size),
                    .elf = {},
                    .bzimage = parse_setup_header(entry.setup_header),
                    .remark = {}};
  image.elf = TRY(parse_elf(image.source));
  return image;
}

Result<KernelImage> open_bzimage(const std::string& path, ImageSource source,
                                 const FileIdentity& identity, const PayloadCache& cache) {
  BzImage header = TRY(parse_bzimage(source));
  KernelImage image{.path = path,
                    .source = std::move(source),
                    .elf = {},
                    .bzimage = std::move(header),
                    .remark = {}};
  const BzImage& bzimage = *image.bzimage;
  if (!is_supported(bzimage.compression)) {
    if (!bzimage.entry64) {
      return fail("it has no 64-bit entry, and compression by {} is not supported",
                  compression_name(bzimage.compression));
    }
    image.remark =
        fmt::format("the kernel '{}' decompresses itself: compression by {} is not supported", path,
                    compression_name(bzimage.compression));
    return image;
  }
  Mapping vmlinux = TRY(decompress_payload(bzimage, image.source));
  image.elf = TRY(parse_elf(ImageSource::borrowed(vmlinux.bytes())));
  // A file that was written to meanwhile must not be found under the identity that it had before.
  struct stat status{};
  if (::fstat(image.source.fd(), &status) == 0 && FileIdentity::of(status) == identity) {
    (void)cache.store(identity, bzimage.setup_header, vmlinux.bytes());  // best effort
  }
  image.source = ImageSource::owned(std::move(vmlinux));
  return image;
}

Result<KernelImage> open_file_of(const std::string& path, const PayloadCache& cache) {
  auto fd = TRY(open_regular_file(path));
  struct stat status{};
  if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot look at '{}'", path);
  auto source = TRY(ImageSource::file(std::move(fd)));
  std::vector<std::byte> head(std::min<std::uint64_t>(source.size(), kSetupHeaderLimit));
  TRY(source.read(0, std::span(head)));

  const auto named = [&](Result<KernelImage> image) -> Result<KernelImage> {
    if (!image) return fail("the kernel '{}' cannot be used: {}", path, image.error().message());
    return image;
  };
  if (is_bzimage(head)) {
    return named(open_bzimage(path, std::move(source), FileIdentity::of(status), cache));
  }
  if (has_magic(head, 0, ELFMAG)) {
    auto elf = parse_elf(source);
    if (!elf) return named(std::unexpected(elf.error()));
    return KernelImage{.path = path,
                       .source = std::move(source),
                       .elf = std::move(*elf),
                       .bzimage = {},
                       .remark = {}};
  }
  return not_a_kernel(path, head, source.size());
}

Result<void> place_elf(const KernelImage& image, const GuestMemory& memory, LoadedKernel& loaded) {
  const ElfImage& elf = *image.elf;
  if (elf.begin() < kLowestKernelAddress) {
    return fail("it is to be loaded at {:#x}, below {:#x}, where a machine has its own data",
                elf.begin().value, kLowestKernelAddress.value);
  }
  TRY(load_elf(elf, image.source, memory));
  loaded.end = elf.end();
  // By PVH, Linux first looks for Xen: 256 times CPUID, each of them an exit.
  const bool is_linux = elf.is_linux || image.bzimage.has_value();
  const bool pvh = elf.pvh_entry && !(is_linux && elf.entry);
  loaded.entry_kind = pvh ? EntryKind::pvh : EntryKind::linux64;
  loaded.entry = pvh ? *elf.pvh_entry : *elf.entry;
  return {};
}

Result<void> place_bzimage(const KernelImage& image, const GuestMemory& memory,
                           LoadedKernel& loaded) {
  const BzImage& bzimage = *image.bzimage;
  const GuestAddress base{bzimage.preferred_address};
  const std::uint64_t size = std::max<std::uint64_t>(bzimage.code_size, bzimage.init_size);
  if (base < kLowestKernelAddress) {
    return fail("it is to be loaded at {:#x}, below {:#x}, where a machine has its own data",
                base.value, kLowestKernelAddress.value);
  }
  if (bzimage.code_size <= kEntry64Offset) return fail("it has no code at its 64-bit entry");
  const auto target = memory.slice(base, size);
  if (!target) {
    return fail("its {} at {:#x} do not fit into the memory of the guest", format_size(size),
                base.value);
  }
  TRY(image.source.read(bzimage.code_offset, target->first(bzimage.code_size)));
  loaded.end = base + size;
  loaded.entry_kind = EntryKind::linux64;
  loaded.entry = base + kEntry64Offset;
  return {};
}

}  // namespace

Result<struct stat> look_at_kernel(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot open the kernel '{}'", path);
  if (S_ISDIR(status.st_mode)) return fail("'{}' is a directory, not a kernel", path);
  if (!S_ISREG(status.st_mode)) return fail("'{}' is not a regular file, a kernel must be", path);
  if (status.st_size == 0) return fail("the kernel '{}' is empty", path);
  return status;
}

Result<KernelImage> open_kernel(const std::string& path, const PayloadCache& cache) {
  const auto status = TRY(look_at_kernel(path));
  if (auto entry = cache.find(FileIdentity::of(status))) {
    auto image = open_cached(path, std::move(*entry));
    if (image) return image;
    // An entry that is no kernel is as good as none.
  }
  return open_file_of(path, cache);
}

Result<LoadedKernel> place_kernel(const KernelImage& image, const GuestMemory& memory) {
  LoadedKernel loaded{.initrd_address_max = kDefaultInitrdAddressMax,
                      .command_line_max = kDefaultCommandLineMax,
                      .remark = image.remark};
  const auto placed =
      image.elf ? place_elf(image, memory, loaded) : place_bzimage(image, memory, loaded);
  if (!placed) {
    return fail("the kernel '{}' cannot be loaded: {}", image.path, placed.error().message());
  }
  if (image.bzimage) {
    loaded.setup_header = image.bzimage->setup_header;
    if (image.bzimage->initrd_address_max != 0) {
      loaded.initrd_address_max = image.bzimage->initrd_address_max;
    }
    if (image.bzimage->command_line_max != 0) {
      loaded.command_line_max = image.bzimage->command_line_max;
    }
  }
  return loaded;
}

Result<LoadedKernel> load_kernel(const std::string& path, const GuestMemory& memory,
                                 const PayloadCache& cache) {
  const auto image = TRY(open_kernel(path, cache));
  return place_kernel(image, memory);
}

}  // namespace vmm::loader
