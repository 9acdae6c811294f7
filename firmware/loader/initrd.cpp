#include "firmware/loader/initrd.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "firmware/loader/decompress.h"
#include "firmware/loader/image_source.h"
#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::loader {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMostOfRoom = 8;  // a packed one is unpacked into this part of it

// The end of the memory that may be used, exclusive.
std::uint64_t end_of_room(const GuestMemory& memory, GuestAddress lowest, GuestAddress last) {
  for (const auto& region : memory.regions()) {
    const std::uint64_t offset = lowest.value - region.range.base.value;  // unsigned
    if (offset >= region.range.size) continue;
    const std::uint64_t end = region.range.base.value + region.range.size;
    return last.value < end ? last.value + 1 : end;
  }
  return 0;
}

// A cpio archive of the format that the kernel takes (Documentation/driver-api/early-userspace/
// buffer-format.rst), with or without checksums.
bool is_archive(std::span<const std::byte> bytes) {
  constexpr std::string_view kNew = "070701", kChecked = "070702";
  const auto begins = [&](std::string_view magic) {
    return bytes.size() >= magic.size() &&
           std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
  };
  return begins(kNew) || begins(kChecked);
}

// The archive in a packed file, of `most` bytes at most; an error if it is none, or there is more
// in the file: the kernel then has to see to it.
Result<Mapping> unpack(Compression kind, const ImageSource& source, std::uint64_t most) {
  const auto packed = TRY(source.read(0, source.size()));
  const auto size = TRY(uncompressed_size(kind, packed, most));
  auto plain = TRY(decompress(kind, packed, size, Rest::refused));
  if (!is_archive(plain.bytes())) return fail("it is not an archive");
  return plain;
}

// What the guest is given: the archive in the file, if that can be had, or the file as it is.
Result<ImageSource> content_of(UniqueFd file, const FileIdentity& identity, std::uint64_t most,
                               const PayloadCache& cache) {
  auto source = ImageSource::file(std::move(file), identity.size);
  std::array<std::byte, 8> head{};
  TRY(source.read(0, std::span(head).first(std::min<std::uint64_t>(head.size(), source.size()))));
  const auto kind = detect_compression(head);
  if (kind != Compression::gzip && kind != Compression::zstd) return source;
  if (source.size() > most) return source;  // before it is read as a whole
  if (auto entry = cache.find(identity)) {
    if (entry->payload_size > most) return source;
    return ImageSource::file(std::move(entry->file), entry->payload_size);
  }
  auto plain = unpack(kind, source, most);
  if (!plain) return source;
  // A file that was written to meanwhile must not be found under the identity that it had before.
  struct stat status{};
  if (::fstat(source.fd(), &status) == 0 && FileIdentity::of(status) == identity) {
    (void)cache.store(identity, {}, plain->bytes());  // best effort
  }
  return ImageSource::owned(std::move(*plain));
}

}  // namespace

Result<LoadedInitrd> load_initrd(const std::string& path, const GuestMemory& memory,
                                 GuestAddress lowest, GuestAddress last,
                                 const PayloadCache& cache) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot open the initrd '{}'", path);
  if (!S_ISREG(status.st_mode)) return fail("'{}' is not a regular file, an initrd must be", path);
  auto file = TRY(open_regular_file(path));
  if (::fstat(file.get(), &status) < 0) return fail_errno("cannot look at '{}'", path);
  if (status.st_size == 0) return fail("the initrd '{}' is empty", path);

  const std::uint64_t first = (lowest.value + kPage - 1) & ~(kPage - 1);
  const std::uint64_t end = end_of_room(memory, lowest, last) & ~(kPage - 1);
  const std::uint64_t room = end > first ? end - first : 0;
  const auto content =
      content_of(std::move(file), FileIdentity::of(status), room / kMostOfRoom, cache);
  const auto unreadable = [&](const Error& error) {
    return fail("the initrd '{}' cannot be read: {}", path, error.message());
  };
  if (!content) return unreadable(content.error());
  const std::uint64_t size = content->size();
  if (size > room) {
    return fail(
        "the initrd '{}' has {} bytes, the guest's memory has room for {} between {:#x} and {:#x}",
        path, size, room, first, std::max(first, end));
  }
  const GuestAddress address{(end - size) & ~(kPage - 1)};
  const auto target = TRY(memory.slice(address, size));
  if (const auto read = content->read(0, target); !read) return unreadable(read.error());
  return LoadedInitrd{address, size};
}

}  // namespace vmm::loader
