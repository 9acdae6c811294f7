#include "src/disk/qcow2/header.h"

#include <algorithm>
#include <array>

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kKnownIncompatible = kIncompatibleDirty | kIncompatibleCorrupt |
                                             kIncompatibleDataFile | kIncompatibleCompression |
                                             kIncompatibleExtendedL2;

class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint32_t u32(std::size_t at) const { return load<std::uint32_t>(&bytes_[at]); }
  std::uint64_t u64(std::size_t at) const { return load<std::uint64_t>(&bytes_[at]); }
  std::byte u8(std::size_t at) const { return bytes_[at]; }

 private:
  std::span<const std::byte> bytes_;
};

std::string text(std::span<const std::byte> bytes) {
  std::string result(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return result.substr(0, result.find('\0'));
}

struct Extensions {
  std::string backing_format;
  std::array<std::string, 64> incompatible_names;
};

Result<Extensions> parse_extensions(std::span<const std::byte> cluster, std::size_t at,
                                    std::size_t end, const std::string& name) {
  Extensions extensions;
  while (end - at >= 8) {
    const auto type = load<std::uint32_t>(&cluster[at]);
    const auto length = load<std::uint32_t>(&cluster[at + 4]);
    if (type == kExtensionEnd) break;
    at += 8;
    if (length > end - at) {
      return fail("disk '{}': header extension {:#x} of {} bytes leaves the header", name, type,
                  length);
    }
    const auto data = cluster.subspan(at, length);
    if (type == kExtensionBackingFormat) extensions.backing_format = text(data);
    if (type == kExtensionFeatureNames) {
      for (std::size_t i = 0; i + 48 <= data.size(); i += 48) {
        const auto bit = std::to_integer<std::size_t>(data[i + 1]);
        if (data[i] == std::byte{0} && bit < 64) {
          extensions.incompatible_names[bit] = text(data.subspan(i + 2, 46));
        }
      }
    }
    at += std::min<std::size_t>(round_up(length, 8), end - at);
  }
  return extensions;
}

Result<void> check_features(const Header& header, const Extensions& extensions,
                            const std::string& name) {
  if ((header.incompatible & kIncompatibleDataFile) != 0) {
    return fail("disk '{}' has an external data file, which is not supported", name);
  }
  if ((header.incompatible & kIncompatibleExtendedL2) != 0) {
    return fail("disk '{}' has extended L2 entries (subclusters), which are not supported", name);
  }
  const std::uint64_t unknown = header.incompatible & ~kKnownIncompatible;
  if (unknown == 0) return {};
  const auto bit = static_cast<std::size_t>(std::countr_zero(unknown));
  const auto& known_as = extensions.incompatible_names[bit];
  if (known_as.empty()) {
    return fail("disk '{}' needs the incompatible feature {}, which is not supported", name, bit);
  }
  return fail("disk '{}' needs the incompatible feature '{}', which is not supported", name,
              known_as);
}

// A table of `bytes` bytes, which is in the file and begins a cluster.
Result<void> check_table(const char* what, std::uint64_t offset, std::uint64_t bytes,
                         const Header& header, std::uint64_t file_size, const std::string& name) {
  if (offset % header.cluster_size() != 0 || offset == 0) {
    return fail("disk '{}' is damaged: its {} at {:#x} does not begin a cluster", name, what,
                offset);
  }
  if (offset > file_size || bytes > file_size - offset) {
    return fail("disk '{}' is damaged: its {} at {:#x} of {} bytes leaves the file of {}", name,
                what, offset, bytes, file_size);
  }
  return {};
}

Result<void> check_geometry(const Header& header, std::uint64_t file_size,
                            const std::string& name) {
  if (header.size > INT64_MAX) {
    return fail("disk '{}' is damaged: invalid size of {} bytes", name, header.size);
  }
  const std::uint64_t l1_bytes = std::uint64_t{header.l1_entries} * 8;
  if (l1_bytes > kMaxL1Bytes) {
    return fail("disk '{}': its L1 table of {} entries is too large: expected at most {}", name,
                header.l1_entries, kMaxL1Bytes / 8);
  }
  if (header.l1_entries < needed_l1_entries(header.size, header.cluster_bits)) {
    return fail("disk '{}' is damaged: its L1 table of {} entries is too small for {} bytes", name,
                header.l1_entries, header.size);
  }
  if (l1_bytes > 0) {
    TRY(check_table("L1 table", header.l1_offset, l1_bytes, header, file_size, name));
  }
  const std::uint64_t table = std::uint64_t{header.refcount_table_clusters} << header.cluster_bits;
  if (table == 0 || table > kMaxRefcountTableBytes) {
    return fail("disk '{}' is damaged: invalid refcount table of {} clusters", name,
                header.refcount_table_clusters);
  }
  // QEMU leaves the end of a table's last cluster out of the file.
  TRY(check_table("refcount table", header.refcount_table_offset, 8, header, file_size, name));
  if (header.snapshots > kMaxSnapshots) {
    return fail("disk '{}': {} internal snapshots are too many: expected at most {}", name,
                header.snapshots, kMaxSnapshots);
  }
  return {};
}

}  // namespace

bool has_magic(std::span<const std::byte> start) {
  return start.size() >= 4 && load<std::uint32_t>(start.data()) == kMagic;
}

std::uint64_t needed_l1_entries(std::uint64_t size, std::uint32_t cluster_bits) {
  const std::uint32_t shift = cluster_bits + cluster_bits - 3;
  return (size >> shift) + ((size & ((1ull << shift) - 1)) != 0 ? 1 : 0);
}

Result<std::uint64_t> header_extent(std::span<const std::byte> start, const std::string& name) {
  if (start.size() < 24 || !has_magic(start)) return fail("disk '{}' is not a qcow2 image", name);
  const auto version = load<std::uint32_t>(&start[4]);
  if (version != 2 && version != 3) {
    return fail("disk '{}' is of qcow2 version {}; 2 and 3 are supported", name, version);
  }
  const auto bits = load<std::uint32_t>(&start[20]);
  if (bits < kMinClusterBits || bits > kMaxClusterBits) {
    return fail("disk '{}' is damaged: invalid clusters of 2^{} bytes: expected 2^{} to 2^{}", name,
                bits, kMinClusterBits, kMaxClusterBits);
  }
  return 1ull << bits;
}

Result<Header> parse_header(std::span<const std::byte> cluster, std::uint64_t file_size,
                            const std::string& name) {
  TRY(header_extent(cluster, name));
  if (cluster.size() < kHeaderSizeV3) return fail("disk '{}' is damaged: it is cut off", name);
  const Fields fields(cluster);
  Header header;
  header.version = fields.u32(4);
  const std::uint64_t backing_offset = fields.u64(8);
  const std::uint32_t backing_size = fields.u32(16);
  header.cluster_bits = fields.u32(20);
  header.size = fields.u64(24);
  const std::uint32_t encryption = fields.u32(32);
  header.l1_entries = fields.u32(36);
  header.l1_offset = fields.u64(40);
  header.refcount_table_offset = fields.u64(48);
  header.refcount_table_clusters = fields.u32(56);
  header.snapshots = fields.u32(60);
  header.snapshots_offset = fields.u64(64);
  std::size_t header_length = kHeaderSizeV2;
  if (header.version == 3) {
    header.incompatible = fields.u64(72);
    header.compatible = fields.u64(80);
    header.autoclear = fields.u64(88);
    header.refcount_order = fields.u32(96);
    header_length = fields.u32(100);
    if (header_length < kHeaderSizeV3 || header_length > cluster.size()) {
      return fail("disk '{}' is damaged: invalid header of {} bytes", name, header_length);
    }
  }
  if (encryption != 0) return fail("disk '{}' is encrypted, which is not supported", name);
  if (header.refcount_order > kMaxRefcountOrder) {
    return fail("disk '{}' is damaged: invalid refcounts of 2^{} bits: expected at most 64 bits",
                name, header.refcount_order);
  }
  // Extensions lie between header and backing file's name.
  std::size_t extensions_end = cluster.size();
  if (backing_offset != 0) {
    if (backing_size > kMaxBackingName || backing_offset > cluster.size() ||
        backing_size > cluster.size() - backing_offset) {
      return fail("disk '{}' is damaged: a backing file's name of {} bytes at {:#x} leaves it",
                  name, backing_size, backing_offset);
    }
    header.backing_path = text(cluster.subspan(backing_offset, backing_size));
    extensions_end = backing_offset;
  }
  if (extensions_end < header_length) extensions_end = header_length;
  const auto extensions = TRY(parse_extensions(cluster, header_length, extensions_end, name));
  header.backing_format = extensions.backing_format;
  TRY(check_features(header, extensions, name));
  if ((header.incompatible & kIncompatibleCompression) != 0) {
    const std::byte type = header_length > kHeaderSizeV3 ? fields.u8(kHeaderSizeV3) : std::byte{0};
    if (type > std::byte{1}) {
      return fail("disk '{}' is compressed by method {}, which is not supported", name,
                  std::to_integer<int>(type));
    }
    header.compression = static_cast<Compression>(type);
  }
  TRY(check_geometry(header, file_size, name));
  return header;
}

Result<std::vector<std::byte>> with_backing_file(std::span<const std::byte> cluster,
                                                 std::string_view path, std::string_view format) {
  const Fields fields(cluster);
  const std::size_t length = fields.u32(4) == 3 ? fields.u32(100) : kHeaderSizeV2;
  const std::uint64_t old = fields.u64(kBackingField);
  const std::size_t end = old == 0 ? cluster.size() : std::max<std::size_t>(old, length);
  std::vector<std::byte> bytes(cluster.begin(), cluster.begin() + static_cast<long>(length));
  const auto append = [&bytes](std::span<const std::byte> data, std::size_t size) {
    bytes.insert(bytes.end(), data.begin(), data.end());
    bytes.resize(bytes.size() + size - data.size());
  };
  const auto append_extension = [&](std::uint32_t type, std::span<const std::byte> data) {
    std::byte head[8];
    store(head, type);
    store(head + 4, static_cast<std::uint32_t>(data.size()));
    append(head, sizeof head);
    append(data, round_up(data.size(), 8));
  };
  if (!path.empty()) {
    append_extension(kExtensionBackingFormat, std::as_bytes(std::span(format)));
  }
  for (std::size_t at = length; end - at >= 8;) {
    const auto type = fields.u32(at);
    const auto size = fields.u32(at + 4);
    if (type == kExtensionEnd) break;
    const auto data = cluster.subspan(at + 8, size);
    if (type != kExtensionBackingFormat) append_extension(type, data);
    at += std::min<std::size_t>(8 + round_up(size, 8), end - at);
  }
  append_extension(kExtensionEnd, {});
  store(&bytes[kBackingField], path.empty() ? std::uint64_t{0} : std::uint64_t{bytes.size()});
  store(&bytes[kBackingField + 8], static_cast<std::uint32_t>(path.size()));
  append(std::as_bytes(std::span(path)), path.size());
  if (path.size() > kMaxBackingName || bytes.size() > cluster.size()) {
    return fail("the backing file's name of {} bytes has no room in a header of {}", path.size(),
                cluster.size());
  }
  // What was there before goes.
  bytes.resize(cluster.size());
  return bytes;
}

Result<std::vector<std::byte>> encode_header(const Header& header) {
  constexpr std::size_t kLength = kHeaderSizeV3 + 8;  // with the compression type and its padding
  std::vector<std::byte> bytes(kLength);
  const auto u32 = [&](std::size_t at, std::uint32_t value) { store(&bytes[at], value); };
  const auto u64 = [&](std::size_t at, std::uint64_t value) { store(&bytes[at], value); };
  u32(0, kMagic);
  u32(4, 3);
  u32(20, header.cluster_bits);
  u64(24, header.size);
  u32(36, header.l1_entries);
  u64(40, header.l1_offset);
  u64(48, header.refcount_table_offset);
  u32(56, header.refcount_table_clusters);
  u64(72, header.incompatible);
  u64(80, header.compatible);
  u32(96, header.refcount_order);
  u32(100, kLength);
  bytes[kHeaderSizeV3] = static_cast<std::byte>(header.compression);
  const auto append = [&bytes](std::string_view value, std::size_t rounded) {
    const auto* data = reinterpret_cast<const std::byte*>(value.data());
    bytes.insert(bytes.end(), data, data + value.size());
    bytes.resize(bytes.size() + rounded - value.size());
  };
  if (!header.backing_format.empty()) {
    const std::size_t at = bytes.size();
    bytes.resize(at + 8);
    u32(at, kExtensionBackingFormat);
    u32(at + 4, static_cast<std::uint32_t>(header.backing_format.size()));
    append(header.backing_format, round_up(header.backing_format.size(), 8));
  }
  bytes.resize(bytes.size() + 8);  // the end of the extensions
  if (!header.backing_path.empty()) {
    u64(8, bytes.size());
    u32(16, static_cast<std::uint32_t>(header.backing_path.size()));
    append(header.backing_path, header.backing_path.size());
  }
  if (header.backing_path.size() > kMaxBackingName || bytes.size() > header.cluster_size()) {
    return fail("the backing file's name of {} bytes has no room in a header of {}",
                header.backing_path.size(), header.cluster_size());
  }
  return bytes;
}

}  // namespace vmm::disk::qcow2
