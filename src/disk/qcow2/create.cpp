#include "src/disk/qcow2/create.h"

#include <unistd.h>

#include "src/base/new_file.h"
#include "src/base/text.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/piece.h"

namespace vmm::disk::qcow2 {
namespace {

// Header, refcount table, refcount blocks, L1 table, in this order.
struct Layout {
  std::uint64_t table = 0;  // clusters
  std::uint64_t blocks = 0;
  std::uint64_t l1 = 0;
  std::uint64_t total() const { return 1 + table + blocks + l1; }
};

Layout lay_out(const Header& header) {
  const std::uint64_t size = header.cluster_size();
  Layout layout;
  layout.l1 = std::max<std::uint64_t>(1, (std::uint64_t{header.l1_entries} * 8 + size - 1) / size);
  for (;;) {
    const std::uint64_t blocks =
        (layout.total() + header.refcounts_per_block() - 1) / header.refcounts_per_block();
    const std::uint64_t table = (blocks * 8 + size - 1) / size;
    if (blocks == layout.blocks && table == layout.table) return layout;
    layout.blocks = blocks;
    layout.table = table;
  }
}

Result<void> check(const CreateOptions& options) {
  if (options.size == 0) return fail("invalid disk size of 0 bytes: expected at least 512");
  if (options.size % kSectorSize != 0) {
    return fail("invalid disk size of {} bytes: expected a multiple of {}", options.size,
                kSectorSize);
  }
  if (options.size > kMaxDiskSize) {
    return fail("a disk of {} bytes is too large: expected at most {}", options.size, kMaxDiskSize);
  }
  if (options.format == ImageFormat::raw) return {};
  const std::uint64_t cluster = options.cluster_size;
  if (!std::has_single_bit(cluster) || cluster < 1ull << kMinClusterBits ||
      cluster > 1ull << kMaxClusterBits) {
    return fail("invalid cluster size of {} bytes: expected a power of two from 512 to 2M",
                cluster);
  }
  const auto bits = static_cast<std::uint32_t>(std::countr_zero(cluster));
  const std::uint64_t most = (kMaxL1Bytes / 8) << (2 * bits - 3);
  if (options.size > most) {
    return fail("a disk of {} bytes is too large for clusters of {}: expected at most {}",
                options.size, format_size(cluster), format_size(most));
  }
  return {};
}

// Completes what is said about the backing file, which has to be there.
Result<CreateOptions> with_backing(CreateOptions options) {
  if (options.backing_path.empty()) return options;
  if (options.format == ImageFormat::raw) return fail("a raw disk has no backing file");
  const auto slash = options.path.rfind('/');
  DiskConfig backing;
  backing.read_only = true;
  backing.format = options.backing_format;
  backing.path = options.backing_path.starts_with('/') || slash == std::string::npos
                     ? options.backing_path
                     : options.path.substr(0, slash + 1) + options.backing_path;
  if (backing.format == ImageFormat::automatic) backing.format = TRY(probe_format(backing.path));
  const auto chain = Chain::open(backing);
  if (!chain) return fail("backing file: {}", chain.error().message());
  if ((*chain)->layers() >= kMaxChain) {
    return fail("backing file '{}' has {} files behind it; a disk has at most {}", backing.path,
                (*chain)->layers() - 1, kMaxChain - 1);
  }
  options.backing_format = backing.format;
  if (options.size == 0) options.size = round_up((*chain)->size(), kSectorSize);
  return options;
}

}  // namespace

Result<void> write_empty_image(int fd, const CreateOptions& options) {
  TRY(check(options));
  Header header;
  header.size = options.size;
  header.cluster_bits = static_cast<std::uint32_t>(std::countr_zero(options.cluster_size));
  header.l1_entries =
      static_cast<std::uint32_t>(needed_l1_entries(header.size, header.cluster_bits));
  header.compression = options.compression;
  if (options.compression != Compression::zlib) header.incompatible = kIncompatibleCompression;
  header.backing_path = options.backing_path;
  if (!options.backing_path.empty()) header.backing_format = format_name(options.backing_format);
  const Layout layout = lay_out(header);
  const std::uint64_t cluster = header.cluster_size();
  header.refcount_table_offset = cluster;
  header.refcount_table_clusters = static_cast<std::uint32_t>(layout.table);
  header.l1_offset = (1 + layout.table + layout.blocks) * cluster;
  const auto first = TRY(encode_header(header));

  // What is zero stays a hole: a layer that holds little takes little.
  const auto used = [&](std::uint64_t bytes, std::uint64_t clusters) {
    return std::min(round_up(bytes, kHole), clusters * cluster);
  };
  std::vector<std::byte> table(used(layout.blocks * 8, layout.table));
  std::vector<std::byte> blocks(used(layout.total() * 2, layout.blocks));
  for (std::uint64_t i = 0; i < layout.blocks; ++i) {
    store(&table[i * 8], (1 + layout.table + i) * cluster);
  }
  for (std::uint64_t i = 0; i < layout.total(); ++i) store(&blocks[i * 2], std::uint16_t{1});
  if (::ftruncate(fd, static_cast<off_t>(layout.total() * cluster)) < 0) {
    return fail_errno("cannot extend the file");
  }
  TRY(write_all_at(fd, blocks, (1 + layout.table) * cluster));
  TRY(write_all_at(fd, table, cluster));
  TRY(write_all_at(fd, first, 0));
  return {};
}

Result<void> create_image(const CreateOptions& given) {
  const auto options = TRY(with_backing(given));
  TRY(check(options));
  auto file = TRY(NewFile::create(options.path, 0666));
  if (options.format != ImageFormat::raw) {
    TRY(write_empty_image(file.fd(), options));
  } else if (::ftruncate(file.fd(), static_cast<off_t>(options.size)) < 0) {
    return fail_errno("cannot extend '{}'", options.path);
  }
  return file.publish();
}

}  // namespace vmm::disk::qcow2
