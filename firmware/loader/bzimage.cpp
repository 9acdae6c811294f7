#include "firmware/loader/bzimage.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "firmware/little_endian.h"
#include "firmware/loader/setup_header.h"

namespace vmm::loader {
namespace {

// Offsets in the file (boot.rst, "Details of Header Fields").
constexpr std::size_t kSetupSectors = 0x1f1;
constexpr std::size_t kCodeParagraphs = 0x1f4;  // of 16 bytes
constexpr std::size_t kHeaderJump = 0x201;
constexpr std::size_t kInitrdAddressMax = 0x22c;
constexpr std::size_t kRelocatable = 0x234;
constexpr std::size_t kExtendedLoadFlags = 0x236;
constexpr std::size_t kPayloadOffset = 0x248;
constexpr std::size_t kPayloadLength = 0x24c;
constexpr std::size_t kPreferredAddress = 0x258;
constexpr std::size_t kInitSize = 0x260;

constexpr std::uint64_t kSector = 512;
constexpr std::uint8_t kLoadedHigh = 1 << 0;
constexpr std::uint16_t kKernel64 = 1 << 0;
constexpr std::uint64_t kUsualAddress = 0x1000000;

// A header whose fields have the offsets of the file, whatever it was cut from.
using Header = std::array<std::byte, kSetupHeaderLimit>;

template <typename T>
T field(const Header& header, std::size_t offset) {
  return get_le<T>(header, offset);
}

BzImage read_fields(const Header& header) {
  BzImage image;
  image.version = field<std::uint16_t>(header, setup::kVersion);
  image.entry64 = image.version >= 0x020c &&
                  (field<std::uint16_t>(header, kExtendedLoadFlags) & kKernel64) != 0;
  image.relocatable = field<std::uint8_t>(header, kRelocatable) != 0;
  image.alignment = field<std::uint32_t>(header, setup::kAlignment);
  image.initrd_address_max = field<std::uint32_t>(header, kInitrdAddressMax);
  image.command_line_max = field<std::uint32_t>(header, setup::kCommandLineMax);
  image.preferred_address = kUsualAddress;
  if (image.version >= 0x020a) {
    image.preferred_address = field<std::uint64_t>(header, kPreferredAddress);
    image.init_size = field<std::uint32_t>(header, kInitSize);
  }
  const std::size_t end = setup::kHeaderMagic + field<std::uint8_t>(header, kHeaderJump);
  image.setup_header.assign(header.begin() + kSetupHeaderOffset,
                            header.begin() + std::ptrdiff_t(std::min(end, header.size())));
  return image;
}

}  // namespace

bool is_bzimage(std::span<const std::byte> head) {
  return head.size() >= setup::kVersion &&
         get_le<std::uint16_t>(head, setup::kBootFlag) == 0xaa55 &&
         std::memcmp(head.data() + setup::kHeaderMagic, "HdrS", 4) == 0;
}

BzImage parse_setup_header(std::span<const std::byte> setup_header) {
  Header header{};
  const std::size_t size = std::min(setup_header.size(), header.size() - kSetupHeaderOffset);
  if (size != 0) std::memcpy(header.data() + kSetupHeaderOffset, setup_header.data(), size);
  return read_fields(header);
}

Result<BzImage> parse_bzimage(const ImageSource& source) {
  Header header{};
  if (source.size() < header.size()) {
    return fail("it has {} bytes, too few for a bzImage", source.size());
  }
  TRY(source.read(0, header));
  if (!is_bzimage(header)) return fail("it is not a bzImage");
  BzImage image = read_fields(header);
  if (image.version < 0x0208) {
    return fail("it speaks the boot protocol {}.{:02}, at least 2.08 is needed", image.version >> 8,
                image.version & 0xff);
  }
  if ((field<std::uint8_t>(header, setup::kLoadFlags) & kLoadedHigh) == 0) {
    return fail("it is a zImage, which is loaded below 1 MiB, not a bzImage");
  }
  const std::uint64_t sectors = field<std::uint8_t>(header, kSetupSectors);
  image.code_offset = ((sectors == 0 ? 4 : sectors) + 1) * kSector;
  image.code_size = std::uint64_t{field<std::uint32_t>(header, kCodeParagraphs)} * 16;
  if (image.code_size == 0) return fail("it has no code");
  if (image.code_offset + image.code_size > source.size()) {
    return fail("it is truncated: it has {} bytes, its header says {}", source.size(),
                image.code_offset + image.code_size);
  }

  const std::uint64_t offset = field<std::uint32_t>(header, kPayloadOffset);
  image.payload_size = field<std::uint32_t>(header, kPayloadLength);
  if (image.payload_size == 0) return image;  // nothing to take out, the code can still be entered
  if (image.payload_size < 16 || offset > image.code_size ||
      image.payload_size > image.code_size - offset) {
    return fail("its payload of {} bytes at {} is outside of its code of {} bytes",
                image.payload_size, offset, image.code_size);
  }
  image.payload_offset = image.code_offset + offset;
  std::array<std::byte, 8> magic{};
  TRY(source.read(image.payload_offset, magic));
  image.compression = detect_compression(magic);
  std::array<std::byte, 4> size{};
  TRY(source.read(image.payload_offset + image.payload_size - size.size(), size));
  image.uncompressed_size = get_le<std::uint32_t>(size, 0);
  return image;
}

Result<Mapping> decompress_payload(const BzImage& image, const ImageSource& source) {
  if (image.uncompressed_size > kMaxPayloadSize) {
    return fail("its payload has {} bytes when decompressed, more than {}", image.uncompressed_size,
                kMaxPayloadSize);
  }
  auto payload = TRY(source.read(image.payload_offset, image.payload_size));
  std::span<const std::byte> stream = payload;
  // gzip ends in the size by itself; the kernel's build appends it to the others.
  if (image.compression != Compression::gzip) stream = stream.first(stream.size() - 4);
  return decompress(image.compression, stream, image.uncompressed_size);
}

}  // namespace vmm::loader
