#include "src/engine/erofs/metadata.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "src/engine/erofs/format.h"
#include "src/engine/erofs/xattr.h"

namespace vmm::erofs {
namespace {

// Behind the superblock, where there is one; else number 0 stays free: readers of directories take
// it for none.
constexpr std::uint64_t kAfterSuperblock = kSuperblockOffset + sizeof(Superblock);
constexpr std::uint64_t kFirstInode = 2 * kSlotSize;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// CRC-32C (Castagnoli), without the usual inversion at the end.
std::uint32_t crc32c(std::span<const std::byte> bytes) {
  std::uint32_t crc = ~0u;
  for (const auto byte : bytes) {
    crc ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1)));
  }
  return crc;
}

std::uint8_t file_type(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return 1;
    case S_IFDIR:
      return 2;
    case S_IFCHR:
      return 3;
    case S_IFBLK:
      return 4;
    case S_IFIFO:
      return 5;
    case S_IFSOCK:
      return 6;
    case S_IFLNK:
      return 7;
    default:
      return 0;
  }
}

// A directory's entries with "." and "..", sorted by bytes.
struct Name {
  std::string_view text;
  InodeId id;
};
std::vector<Name> names_of(const Inode& directory, InodeId self, InodeId parent) {
  std::vector<Name> names = {{".", self}, {"..", parent}};
  names.reserve(directory.children.size() + 2);
  for (const auto& [name, id] : directory.children) names.push_back({name, id});
  std::ranges::sort(names, {}, &Name::text);
  return names;
}

Result<void> check(const Inode& inode) {
  if (file_type(inode.mode) == 0) return fail("invalid file type {:o}", inode.mode);
  if (inode.target.size() > kMaxTarget) return fail("a symbolic link's target is too long");
  if (!std::ranges::all_of(inode.xattrs, can_store) || xattr_size(inode.xattrs) > kMaxXattrs) {
    return fail("extended attributes are too long or of an unknown kind");
  }
  for (const auto& [name, id] : inode.children) {
    if (name.empty() || name.size() > kMaxName || name == "." || name == ".." ||
        name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
      return fail("invalid file name '{}'", name.substr(0, 300));
    }
  }
  return {};
}

}  // namespace

std::uint64_t Metadata::Blocks::size() const {
  return (first_names.size() - 1) * std::uint64_t{kBlockSize} + last_size;
}

Result<Metadata> Metadata::plan(const Tree& tree, std::uint32_t first_block) {
  Metadata metadata(tree, first_block);
  TRY(metadata.find_inodes());
  metadata.place_inodes();
  for (const auto id : metadata.order_) {
    if (metadata.places_[id].offset > kMaxMetadata) return fail("the image has too many files");
  }
  return metadata;
}

Result<void> Metadata::find_inodes() {
  places_.resize(tree_.size());
  order_.push_back(Tree::kRoot);
  places_[Tree::kRoot].links = 2;
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const auto id = order_[i];
    const Inode& inode = tree_.at(id);
    TRY(check(inode));
    for (const auto& [name, child] : inode.children) {
      auto& place = places_[child];
      if (tree_.at(child).is_directory()) {
        place.links = 2;
        place.parent = id;
        ++places_[id].links;  // its ".."
        order_.push_back(child);
      } else if (++place.links == 1) {
        order_.push_back(child);
      }
    }
  }
  return {};
}

Metadata::Blocks Metadata::split_directory(const Inode& directory) const {
  Blocks blocks;
  std::uint32_t used = kBlockSize + 1;  // no block yet
  std::size_t i = 0;
  for (const auto& name : names_of(directory, 0, 0)) {
    const auto size = static_cast<std::uint32_t>(sizeof(DirectoryEntry) + name.text.size());
    if (used + size > kBlockSize) {
      blocks.first_names.push_back(i);
      used = 0;
    }
    used += size;
    ++i;
  }
  blocks.last_size = used;
  return blocks;
}

std::uint64_t Metadata::data_size(const Inode& inode) const {
  if (inode.is_directory()) return split_directory(inode).size();
  if (inode.is_symlink()) return inode.target.size();
  return S_ISREG(inode.mode) ? inode.size : 0;
}

void Metadata::place_inodes() {
  std::uint64_t offset = first_block_ == 0 ? kAfterSuperblock : kFirstInode;
  std::uint64_t whole_blocks = 0;
  for (const auto id : order_) {
    const Inode& inode = tree_.at(id);
    auto& place = places_[id];
    const auto head = sizeof(ExtendedInode) + xattr_size(inode.xattrs);
    const auto size = S_ISREG(inode.mode) ? 0 : data_size(inode);
    auto rest = size % kBlockSize;
    place.is_inline = rest > 0 && head + rest <= kBlockSize;
    if (!place.is_inline) rest = 0;
    offset = round_up(offset, kSlotSize);
    // Neither the inode nor what stands inline may cross from one block into the next.
    const auto start = offset % kBlockSize;
    const bool inode_crosses = start + sizeof(ExtendedInode) > kBlockSize;
    const bool rest_crosses = rest > 0 && (start + head) % kBlockSize + rest > kBlockSize;
    if (inode_crosses || rest_crosses) offset = round_up(offset, kBlockSize);
    place.offset = offset;
    offset += head + rest;
    place.first_block = static_cast<std::uint32_t>(whole_blocks);
    whole_blocks += size / kBlockSize + (size % kBlockSize > 0 && !place.is_inline ? 1 : 0);
  }
  // fsck.erofs reads this header behind an inode without attributes too, so the image may not end
  // before it.
  const auto inode_blocks = round_up(offset + sizeof(XattrHeader), kBlockSize) / kBlockSize;
  for (const auto id : order_) {
    places_[id].first_block += static_cast<std::uint32_t>(first_block_ + inode_blocks);
  }
  blocks_ = static_cast<std::uint32_t>(inode_blocks + whole_blocks);
}

std::uint64_t Metadata::nid(InodeId id) const { return places_[id].offset / kSlotSize; }

std::vector<std::byte> Metadata::directory_data(InodeId id) const {
  const Inode& directory = tree_.at(id);
  const auto names = names_of(directory, id, places_[id].parent);
  const auto blocks = split_directory(directory);
  std::vector<std::byte> data(blocks.size());
  for (std::size_t block = 0; block < blocks.first_names.size(); ++block) {
    const auto first = blocks.first_names[block];
    const bool is_last = block + 1 == blocks.first_names.size();
    const auto end = is_last ? names.size() : blocks.first_names[block + 1];
    auto* const out = data.data() + block * kBlockSize;
    auto name_at = (end - first) * sizeof(DirectoryEntry);
    for (auto i = first; i < end; ++i) {
      const DirectoryEntry entry{nid(names[i].id), static_cast<std::uint16_t>(name_at),
                                 file_type(tree_.at(names[i].id).mode), 0};
      std::memcpy(out + (i - first) * sizeof entry, &entry, sizeof entry);
      std::memcpy(out + name_at, names[i].text.data(), names[i].text.size());
      name_at += names[i].text.size();
    }
  }
  return data;
}

void Metadata::write_inode(InodeId id, std::span<const std::uint32_t> device_blocks,
                           std::span<std::byte> out) const {
  const Inode& inode = tree_.at(id);
  const Place& place = places_[id];
  const auto xattrs = xattr_size(inode.xattrs);
  const auto layout = place.is_inline ? DataLayout::flat_inline : DataLayout::flat_plain;
  ExtendedInode encoded{};
  encoded.format = static_cast<std::uint16_t>(1 | static_cast<unsigned>(layout) << 1);
  if (xattrs > 0) {
    encoded.xattr_count = static_cast<std::uint16_t>((xattrs - sizeof(XattrHeader)) / 4 + 1);
  }
  encoded.mode = static_cast<std::uint16_t>(inode.mode);
  encoded.inode_number = static_cast<std::uint32_t>(nid(id));
  encoded.uid = inode.uid;
  encoded.gid = inode.gid;
  encoded.mtime = static_cast<std::uint64_t>(inode.mtime);
  encoded.mtime_ns = inode.mtime_ns;
  encoded.links = place.links;
  std::vector<std::byte> data;
  if (S_ISREG(inode.mode)) {
    encoded.size = inode.size;
    if (inode.size > 0) {
      encoded.block_or_device = device_blocks[inode.device_index] + inode.first_block;
    }
  } else if (S_ISCHR(inode.mode) || S_ISBLK(inode.mode)) {
    encoded.block_or_device = inode.rdev;
  } else if (inode.is_directory() || inode.is_symlink()) {
    if (inode.is_directory()) {
      data = directory_data(id);
    } else {
      const auto target = std::as_bytes(std::span(inode.target));
      data.assign(target.begin(), target.end());
    }
    encoded.size = data.size();
    encoded.block_or_device = place.first_block;
  }
  std::memcpy(&out[place.offset], &encoded, sizeof encoded);
  auto behind = out.subspan(place.offset + sizeof encoded);
  encode_xattrs(inode.xattrs, behind.first(xattrs));
  const auto inlined = place.is_inline ? data.size() % kBlockSize : 0;
  if (inlined > 0) std::memcpy(&behind[xattrs], &data[data.size() - inlined], inlined);
  if (data.size() > inlined) {
    const auto at = std::uint64_t{place.first_block - first_block_} * kBlockSize;
    std::memcpy(&out[at], data.data(), data.size() - inlined);
  }
}

void Metadata::write_superblock(std::span<std::byte> block, std::uint32_t image_blocks) const {
  Superblock super{};
  super.magic = kMagic;
  super.feature_compat = kCompatChecksum | kCompatMtime;
  super.block_bits = kBlockBits;
  super.root_nid = static_cast<std::uint16_t>(nid(Tree::kRoot));
  super.inodes = order_.size();
  super.blocks = image_blocks;
  super.meta_block = first_block_;
  std::memcpy(&block[kSuperblockOffset], &super, sizeof super);
  super.checksum = crc32c(block.subspan(kSuperblockOffset, kBlockSize - kSuperblockOffset));
  std::memcpy(&block[kSuperblockOffset], &super, sizeof super);
}

std::vector<std::byte> Metadata::encode(std::span<const std::uint32_t> device_blocks,
                                        std::uint32_t image_blocks) const {
  std::vector<std::byte> out(std::uint64_t{blocks_} * kBlockSize);
  for (const auto id : order_) write_inode(id, device_blocks, out);
  if (first_block_ == 0) write_superblock(out, image_blocks);
  return out;
}

std::vector<std::byte> Metadata::encode_superblock(std::uint32_t image_blocks) const {
  std::vector<std::byte> block(kBlockSize);
  write_superblock(block, image_blocks);
  return block;
}

}  // namespace vmm::erofs
