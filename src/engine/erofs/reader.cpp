#include "src/engine/erofs/reader.h"

#include <sys/stat.h>

#include <cstring>
#include <map>
#include <span>

#include "src/base/unique_fd.h"
#include "src/engine/erofs/format.h"
#include "src/engine/erofs/xattr.h"

namespace vmm::erofs {
namespace {

std::uint64_t blocks_of(std::uint64_t size) { return size / kBlockSize + (size % kBlockSize != 0); }

class Reader {
 public:
  Reader(std::vector<std::byte> metadata, const Superblock& super)
      : metadata_(std::move(metadata)), super_(super) {}

  Result<Tree> read() {
    TRY(visit(super_.root_nid));
    while (!directories_.empty()) {
      const auto id = directories_.back();
      directories_.pop_back();
      TRY(read_directory(id));
    }
    return std::move(tree_);
  }

 private:
  struct Where {
    std::uint64_t size, first_block;
    std::span<const std::byte> behind;  // what stands inline
    bool is_inline;
  };

  Result<std::span<const std::byte>> bytes(std::uint64_t offset, std::uint64_t size) const {
    if (offset > metadata_.size() || size > metadata_.size() - offset) {
      return fail("something lies outside of it");
    }
    return std::span(metadata_).subspan(offset, size);
  }

  // Content of a directory or symbolic link, which the metadata has.
  Result<std::string> content(const Where& where) const {
    const auto inlined = where.is_inline ? where.size % kBlockSize : 0;
    const auto whole = where.size - inlined;
    if (inlined > where.behind.size() || (whole > 0 && where.first_block < super_.meta_block)) {
      return fail("something lies outside of it");
    }
    std::string text;
    if (whole > 0) {
      const auto data = TRY(bytes((where.first_block - super_.meta_block) * kBlockSize, whole));
      text.assign(reinterpret_cast<const char*>(data.data()), data.size());
    }
    text.append(reinterpret_cast<const char*>(where.behind.data()), inlined);
    return text;
  }

  // The inode with that number, which is read when it is met first.
  Result<InodeId> visit(std::uint64_t nid) {
    if (const auto known = ids_.find(nid); known != ids_.end()) {
      if (tree_.at(known->second).is_directory()) return fail("a directory has two names");
      return known->second;
    }
    if (nid > kMaxMetadata / kSlotSize) return fail("something lies outside of it");
    ExtendedInode encoded;
    const auto offset = nid * kSlotSize;
    std::memcpy(&encoded, TRY(bytes(offset, sizeof encoded)).data(), sizeof encoded);
    const auto layout = static_cast<DataLayout>(encoded.format >> 1);
    if ((encoded.format & 1) == 0 ||
        (layout != DataLayout::flat_plain && layout != DataLayout::flat_inline)) {
      return fail("an inode of a kind that is not supported");
    }
    const auto xattrs = encoded.xattr_count == 0
                            ? 0
                            : sizeof(XattrHeader) + (encoded.xattr_count - 1u) * sizeof(XattrEntry);
    Inode inode;
    inode.mode = encoded.mode;
    inode.uid = encoded.uid;
    inode.gid = encoded.gid;
    inode.mtime = static_cast<std::int64_t>(encoded.mtime);
    inode.mtime_ns = encoded.mtime_ns;
    inode.xattrs = TRY(decode_xattrs(TRY(bytes(offset + sizeof encoded, xattrs))));
    const auto behind = offset + sizeof encoded + xattrs;
    const Where where{encoded.size, encoded.block_or_device, std::span(metadata_).subspan(behind),
                      layout == DataLayout::flat_inline};
    if (S_ISREG(inode.mode)) {
      if (layout != DataLayout::flat_plain || blocks_of(encoded.size) > super_.blocks ||
          encoded.block_or_device > super_.blocks - blocks_of(encoded.size)) {
        return fail("a file's data lies outside of it");
      }
      inode.size = encoded.size;
      inode.first_block = encoded.block_or_device;
    } else if (inode.is_symlink()) {
      if (encoded.size > kMaxTarget) return fail("a symbolic link is too long");
      inode.target = TRY(content(where));
    } else if (!inode.is_directory()) {
      inode.rdev = encoded.block_or_device;
    }
    const bool is_directory = inode.is_directory();
    const bool is_root = ids_.empty();
    if (is_root && !is_directory) return fail("its root is not a directory");
    InodeId id = Tree::kRoot;
    if (is_root) {
      tree_.at(id) = std::move(inode);
    } else {
      id = tree_.add(std::move(inode));
    }
    ids_[nid] = id;
    if (is_directory) {
      directories_.push_back(id);
      wheres_[id] = where;
    }
    return id;
  }

  Result<void> read_directory(InodeId id) {
    const auto data = TRY(content(wheres_.at(id)));
    wheres_.erase(id);
    for (std::size_t at = 0; at < data.size(); at += kBlockSize) {
      TRY(read_block(id, std::string_view(data).substr(at, kBlockSize)));
    }
    return {};
  }

  Result<void> read_block(InodeId directory, std::string_view block) {
    const auto entry_at = [block](std::size_t i) {
      DirectoryEntry entry;
      std::memcpy(&entry, block.data() + i * sizeof entry, sizeof entry);
      return entry;
    };
    if (block.size() < sizeof(DirectoryEntry)) return fail("a directory is cut off");
    const std::size_t count = entry_at(0).name_offset / sizeof(DirectoryEntry);
    if (count == 0 || count * sizeof(DirectoryEntry) > block.size()) {
      return fail("a directory is damaged");
    }
    for (std::size_t i = 0; i < count; ++i) {
      const auto entry = entry_at(i);
      const std::size_t begin = entry.name_offset;
      const std::size_t end =
          i + 1 < count ? std::size_t{entry_at(i + 1).name_offset} : block.size();
      if (begin < count * sizeof entry || begin >= end || end > block.size()) {
        return fail("a directory is damaged");
      }
      auto name = block.substr(begin, end - begin);
      if (i + 1 == count) name = name.substr(0, name.find('\0'));  // what pads the block
      if (name == "." || name == "..") continue;
      if (name.empty() || name.size() > kMaxName ||
          name.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos) {
        return fail("a file's name is invalid");
      }
      const auto child = TRY(visit(entry.nid));
      if (!tree_.at(directory).children.emplace(name, child).second) {
        return fail("a directory has a name twice");
      }
    }
    return {};
  }

  std::vector<std::byte> metadata_;
  Superblock super_;
  Tree tree_;
  std::map<std::uint64_t, InodeId> ids_;
  std::map<InodeId, Where> wheres_;
  std::vector<InodeId> directories_;  // that have not been read
};

Result<ReadImage> read(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) < 0) return fail_errno("cannot examine it");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  Superblock super;
  TRY(read_exact_at(fd, std::as_writable_bytes(std::span(&super, 1)), kSuperblockOffset));
  if (super.magic != kMagic || super.block_bits != kBlockBits || super.feature_incompat != 0) {
    return fail("it is not of the kind that is written here");
  }
  const auto begin = std::uint64_t{super.meta_block} * kBlockSize;
  if (begin >= size || size - begin > kMaxMetadata) return fail("its metadata lies outside of it");
  std::vector<std::byte> metadata(size - begin);
  TRY(read_exact_at(fd, metadata, begin));
  return ReadImage{TRY(Reader(std::move(metadata), super).read()), super.blocks};
}

}  // namespace

Result<ReadImage> read_image(int fd) {
  auto image = read(fd);
  if (!image) return fail("an EROFS image is damaged: {}", image.error().message());
  return image;
}

}  // namespace vmm::erofs
