// Metadata: inodes and directories of a tree as EROFS has them. Files' data stands elsewhere.
//
// Theory of operation:
//   1. plan() gives each inode its place. Root is first: the superblock has 16 bits for its number.
//      A symbolic link's target, and what of a directory does not fill a block, stands behind its
//      inode where both fit into one block; whole blocks of directories follow all inodes.
//   2. Sizes do not depend on where data is. So the size is known before the addresses are, and
//      data may follow the metadata (a merged image) as well as precede it (a layer).
//   3. encode() writes it, with the address of each device's first block added.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/engine/erofs/tree.h"

namespace vmm::erofs {

class Metadata {
 public:
  // Begins at block `first_block` of the image. At block 0 the superblock is a part of it. The
  // tree has to outlive it, unchanged. Error: names or attributes that EROFS cannot have; more
  // blocks than it can address.
  static Result<Metadata> plan(const Tree& tree, std::uint32_t first_block);

  std::uint32_t blocks() const { return blocks_; }
  // `device_blocks[i]` is where the image has the first block of the device with index i, and
  // `image_blocks` how many it has in all.
  std::vector<std::byte> encode(std::span<const std::uint32_t> device_blocks,
                                std::uint32_t image_blocks) const;
  // The block with the superblock, of an image whose metadata begins elsewhere.
  std::vector<std::byte> encode_superblock(std::uint32_t image_blocks) const;

 private:
  struct Place {
    std::uint64_t offset = 0;       // from the metadata's start
    std::uint32_t first_block = 0;  // of a directory's whole blocks, in the image
    InodeId parent = 0;
    std::uint32_t links = 0;
    bool is_inline = false;
  };
  // Which names each block of a directory has, and the bytes that the last one takes.
  struct Blocks {
    std::vector<std::size_t> first_names;
    std::uint32_t last_size = 0;
    std::uint64_t size() const;
  };

  Metadata(const Tree& tree, std::uint32_t first_block) : tree_(tree), first_block_(first_block) {}

  Result<void> find_inodes();
  void place_inodes();
  Blocks split_directory(const Inode& directory) const;
  std::uint64_t data_size(const Inode& inode) const;
  std::uint64_t nid(InodeId id) const;
  void write_superblock(std::span<std::byte> block, std::uint32_t image_blocks) const;
  void write_inode(InodeId id, std::span<const std::uint32_t> device_blocks,
                   std::span<std::byte> out) const;
  std::vector<std::byte> directory_data(InodeId id) const;

  const Tree& tree_;
  std::uint32_t first_block_;
  std::uint32_t blocks_ = 0;
  std::vector<InodeId> order_;  // those that are reached from the root, it first
  std::vector<Place> places_;   // by id
};

}  // namespace vmm::erofs
