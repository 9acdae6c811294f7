#include "firmware/loader/arm64_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "firmware/little_endian.h"
#include "firmware/loader/bzimage.h"
#include "firmware/loader/kernel.h"
#include "src/base/text.h"

namespace vmm::loader {
namespace {

// Offsets in the header of an Image, 64 bytes.
constexpr std::size_t kHeaderSize = 64;
constexpr std::size_t kTextOffset = 0x08;
constexpr std::size_t kImageSize = 0x10;
constexpr std::size_t kFlags = 0x18;
constexpr std::size_t kMagicOffset = 0x38;
constexpr std::uint64_t kBigEndian = 1 << 0;

// Of an EFI application with a payload.
constexpr std::size_t kEfiPayloadMagic = 0x04;
constexpr std::size_t kEfiPayloadOffset = 0x08;
constexpr std::size_t kEfiPayloadSize = 0x0c;

bool has_magic(std::span<const std::byte> head, std::size_t offset, std::string_view magic) {
  return head.size() >= offset + magic.size() &&
         std::memcmp(head.data() + offset, magic.data(), magic.size()) == 0;
}

Result<std::vector<std::byte>> head_of(const ImageSource& source) {
  return source.read(0, std::min<std::uint64_t>(source.size(), kSetupHeaderLimit));
}

// What the file is, when it is something else than a kernel for this machine.
std::unexpected<Error> not_an_image(std::span<const std::byte> head) {
  if (is_bzimage(head)) return fail("it is a kernel for x86-64, this machine is arm64");
  if (has_magic(head, kMagicOffset, "RSC\x05")) {
    return fail("it is a kernel for riscv, this machine is arm64");
  }
  if (has_magic(head, 0, "\177ELF")) {
    return fail("it is an ELF file, the kernel's Image is needed (arch/arm64/boot/Image)");
  }
  return fail("it is not the Image of a kernel for arm64");
}

Result<LoadedArm64Kernel> place(const ImageSource& source, const GuestMemory& memory,
                                GuestAddress base) {
  const auto image = TRY(parse_arm64_image(source));
  const GuestAddress start = base + image.text_offset;
  const std::uint64_t size = std::max(image.memory_size, source.size());
  const auto target = memory.slice(start, size);
  if (!target) {
    return fail("its {} at {:#x} do not fit into the memory of the guest", format_size(size),
                start.value);
  }
  TRY(source.read(0, target->first(source.size())));
  return LoadedArm64Kernel{.entry = start, .end = start + size};
}

Result<LoadedArm64Kernel> load(const std::string& path, const GuestMemory& memory,
                               GuestAddress base, const PayloadCache& cache) {
  auto fd = TRY(open_regular_file(path));
  struct stat status{};
  if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot look at it");
  const auto source = TRY(ImageSource::file(std::move(fd)));
  const auto unpacked = TRY(unpack_arm64_image(source));
  if (!unpacked) return place(source, memory, base);
  const auto loaded = TRY(place(ImageSource::borrowed(unpacked->bytes()), memory, base));
  // A file that was written to meanwhile must not be found under the identity that it had before.
  struct stat after{};
  const auto identity = FileIdentity::of(status);
  if (::fstat(source.fd(), &after) == 0 && FileIdentity::of(after) == identity) {
    (void)cache.store(identity, {}, unpacked->bytes());  // best effort
  }
  return loaded;
}

}  // namespace

Result<Arm64Image> parse_arm64_image(const ImageSource& source) {
  const auto head = TRY(head_of(source));
  if (!has_magic(head, kMagicOffset, "ARM\x64")) return not_an_image(head);
  Arm64Image image{.text_offset = get_le<std::uint64_t>(head, kTextOffset),
                   .memory_size = get_le<std::uint64_t>(head, kImageSize)};
  if (source.size() < kHeaderSize) return fail("it is truncated");
  if (image.memory_size == 0) return fail("it does not say its size, as before Linux 3.17");
  if ((get_le<std::uint64_t>(head, kFlags) & kBigEndian) != 0) {
    return fail("it is a big-endian kernel, which is not supported");
  }
  if (image.text_offset >= kArm64ImageAlignment || image.memory_size > kMaxPayloadSize) {
    return fail("its header is corrupt: {} bytes at offset {:#x}", image.memory_size,
                image.text_offset);
  }
  return image;
}

Result<std::optional<Mapping>> unpack_arm64_image(const ImageSource& source) {
  const auto head = TRY(head_of(source));
  std::uint64_t offset = 0;
  std::uint64_t size = source.size();
  if (has_magic(head, 0, "MZ") && has_magic(head, kEfiPayloadMagic, "zimg")) {
    offset = get_le<std::uint32_t>(head, kEfiPayloadOffset);
    size = get_le<std::uint32_t>(head, kEfiPayloadSize);
    if (offset < kHeaderSize || offset > source.size() || size > source.size() - offset) {
      return fail("its payload of {} bytes at {} is outside of its {} bytes", size, offset,
                  source.size());
    }
  }
  std::array<std::byte, 8> magic{};
  if (size < magic.size()) return std::optional<Mapping>();
  TRY(source.read(offset, magic));
  const Compression compression = detect_compression(magic);
  if (compression == Compression::unknown && offset == 0) return std::optional<Mapping>();
  if (compression != Compression::gzip && compression != Compression::zstd) {
    return fail("it is compressed by {}, only gzip and zstd are supported",
                compression_name(compression));
  }
  const auto stream = TRY(source.read(offset, size));
  const std::uint64_t whole = TRY(uncompressed_size(compression, stream, kMaxPayloadSize));
  return std::optional<Mapping>(TRY(decompress(compression, stream, whole)));
}

Result<LoadedArm64Kernel> load_arm64_kernel(const std::string& path, const GuestMemory& memory,
                                            GuestAddress base, const PayloadCache& cache) {
  const auto status = TRY(look_at_kernel(path));
  if (auto entry = cache.find(FileIdentity::of(status))) {
    const auto source = ImageSource::file(std::move(entry->file), entry->payload_size);
    const auto loaded = place(source, memory, base);
    if (loaded) return loaded;
    // An entry that is no kernel is as good as none.
  }
  auto loaded = load(path, memory, base, cache);
  if (!loaded) return fail("the kernel '{}' cannot be used: {}", path, loaded.error().message());
  return loaded;
}

}  // namespace vmm::loader
