#include "src/engine/image/layer_image.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "src/base/unique_fd.h"
#include "src/base/zero.h"
#include "src/engine/erofs/format.h"
#include "src/engine/erofs/metadata.h"
#include "src/engine/erofs/xattr.h"
#include "src/engine/image/layer_marks.h"
#include "src/engine/image/tar_reader.h"

namespace vmm::engine {
namespace {

using erofs::Inode;
using erofs::InodeId;
using erofs::kBlockSize;
using erofs::Tree;
using Kind = TarReader::Kind;

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaqueWhiteout = ".wh..wh..opq";
constexpr std::string_view kReserved = ".wh..wh.";  // of AUFS
constexpr std::size_t kMaxPath = 4096;              // PATH_MAX
constexpr std::uint64_t kMaxBlocks = 0xffff'ffff;

std::string join(const std::vector<std::string>& components) {
  std::string path;
  for (const auto& component : components) path += "/" + component;
  return path;
}

Inode implied_directory() {
  Inode inode;
  inode.mode = S_IFDIR | 0755;
  inode.set_xattr(kImplied, "y");
  return inode;
}

class LayerWriter {
 public:
  LayerWriter(int fd, const LayerLimits& limits) : out_(fd), limits_(limits) {
    tree_.at(Tree::kRoot) = implied_directory();
  }

  Result<void> add(TarReader& tar) {
    if (++entries_ > limits_.entries) return fail("more than {} files", limits_.entries);
    TRY(count_names(tar.name().size()));
    if (tar.name().size() >= kMaxPath) return fail("a name is longer than {} bytes", kMaxPath - 1);
    auto components = erofs::clean_components(tar.name());
    if (components.empty()) return {};  // the root itself keeps its attributes, as in containerd
    const auto name = components.back();
    components.pop_back();
    const auto parent = *TRY(
        tree_.find_directory(join(components), Tree::Missing::is_created, implied_directory()));
    // A whiteout's name is as long as that of the file that it hides.
    const std::size_t prefix = name.starts_with(kWhiteout) ? kWhiteout.size() : 0;
    if (name.size() - prefix > erofs::kMaxName) {
      return fail("the name '{}...' is longer than {} bytes", name.substr(0, 40), erofs::kMaxName);
    }
    if (name == kOpaqueWhiteout) {
      tree_.at(parent).set_xattr(kOpaque, std::string(kOpaqueValue));
    } else if (name.starts_with(kReserved)) {
      return {};
    } else if (name.starts_with(kWhiteout)) {
      whiteouts_[parent].insert(name.substr(kWhiteout.size()));
    } else {
      return add_file(tar, parent, name);
    }
    return {};
  }

  Result<std::uint64_t> finish() {
    TRY(apply_whiteouts());
    const auto metadata =
        TRY(erofs::Metadata::plan(tree_, static_cast<std::uint32_t>(next_block_)));
    const auto blocks = next_block_ + metadata.blocks();
    if (blocks > kMaxBlocks) return fail("it is larger than EROFS can be");
    constexpr std::array<std::uint32_t, 1> kOwnData = {0};
    TRY(write_all_at(out_, metadata.encode(kOwnData, static_cast<std::uint32_t>(blocks)),
                     next_block_ * kBlockSize));
    TRY(write_all_at(out_, metadata.encode_superblock(static_cast<std::uint32_t>(blocks)), 0));
    return size_;
  }

 private:
  Result<void> count_names(std::size_t size) {
    name_bytes_ += size;
    if (name_bytes_ > limits_.name_bytes) return fail("its names are too long in all");
    return {};
  }

  Result<void> add_file(TarReader& tar, InodeId parent, const std::string& name) {
    if (tar.kind() == Kind::hard_link) return add_link(tar, parent, name);
    if (tar.kind() == Kind::other)
      return fail("'{}' is of a kind that is not supported", tar.name());
    Inode inode = tar.attributes();
    TRY(take_xattrs(inode));
    if (tar.kind() == Kind::directory) {
      const auto existing = tree_.child(parent, name);
      if (existing) {
        Inode& earlier = tree_.at(*existing);
        // A file that the directory replaces had replaced what is below, too.
        if (!earlier.is_directory() || earlier.xattr(kOpaque) != nullptr) {
          inode.set_xattr(kOpaque, std::string(kOpaqueValue));
        }
        if (earlier.is_directory()) {
          inode.children = std::move(earlier.children);
          earlier = std::move(inode);
          return {};
        }
      }
    } else if (tar.kind() == Kind::symlink) {
      inode.target = tar.link_target();
      TRY(count_names(inode.target.size()));
      if (inode.target.empty() || inode.target.size() > erofs::kMaxTarget) {
        return fail("'{}' has an invalid target: expected 1 to {} bytes", tar.name(),
                    erofs::kMaxTarget);
      }
    } else if (tar.kind() == Kind::file) {
      TRY(copy_data(tar, inode));
    }
    tree_.at(parent).children[name] = tree_.add(std::move(inode));
    return {};
  }

  // Keeps what EROFS can store, and lets no archive set a mark.
  Result<void> take_xattrs(Inode& inode) {
    std::erase_if(inode.xattrs, [](const erofs::Xattr& xattr) {
      return !erofs::can_store(xattr) || xattr.name.starts_with(kOverlayPrefix) ||
             xattr.name.starts_with(kVmmPrefix);
    });
    const auto size = erofs::xattr_size(inode.xattrs);
    // The marks have to fit, too.
    if (size > erofs::kMaxXattrs / 2) return fail("extended attributes are longer than 32 KiB");
    return count_names(size);
  }

  // A link to a file of this layer is one more name; another is resolved at the merge.
  Result<void> add_link(TarReader& tar, InodeId parent, const std::string& name) {
    const auto target = tar.link_target();
    TRY(count_names(target.size()));
    auto components = erofs::clean_components(target);
    if (components.empty() || target.size() >= kMaxPath) {
      return fail("the hard link '{}' has an invalid target", name);
    }
    const auto path = join(components);
    const auto last = components.back();
    components.pop_back();
    if (const auto directory =
            TRY(tree_.find_directory(join(components), Tree::Missing::fails, {}))) {
      if (const auto file = tree_.child(*directory, last)) {
        if (tree_.at(*file).is_directory()) {
          return fail("the hard link '{}' leads to a directory", name);
        }
        TRY(take_attributes(tar, tree_.at(*file)));
        tree_.at(parent).children[name] = *file;
        return {};
      }
    }
    Inode link;
    link.mode = S_IFREG;
    link.set_xattr(kLink, path);
    tree_.at(parent).children[name] = tree_.add(std::move(link));
    return {};
  }

  // Those of a file in a layer below stay.
  Result<void> take_attributes(TarReader& tar, Inode& inode) {
    if (inode.xattr(kLink) != nullptr) return {};
    Inode last = tar.attributes();
    for (const auto& xattr : inode.xattrs) {
      if (xattr.name == "security.capability") continue;  // chown(2) takes it from a file
      if (last.xattr(xattr.name) == nullptr) last.set_xattr(xattr.name, xattr.value);
    }
    TRY(take_xattrs(last));
    inode.xattrs = std::move(last.xattrs);
    if (!inode.is_symlink()) inode.mode = (inode.mode & S_IFMT) | (last.mode & 07777);
    inode.uid = last.uid;
    inode.gid = last.gid;
    inode.mtime = last.mtime;
    inode.mtime_ns = last.mtime_ns;
    return {};
  }

  Result<void> copy_data(TarReader& tar, Inode& inode) {
    inode.size = tar.size();
    size_ += inode.size;
    const auto blocks = inode.size / kBlockSize + (inode.size % kBlockSize != 0);
    if (blocks > kMaxBlocks - next_block_) return fail("it is larger than EROFS can be");
    inode.first_block = static_cast<std::uint32_t>(next_block_);
    while (const auto piece = TRY(tar.read())) {
      if (piece->offset > inode.size || piece->bytes.size() > inode.size - piece->offset) {
        return fail("'{}' has more data than its size says", tar.name());
      }
      if (!is_zero(piece->bytes)) {
        TRY(write_all_at(out_, piece->bytes, next_block_ * kBlockSize + piece->offset));
      }
    }
    next_block_ += blocks;
    return {};
  }

  // A name that the layer itself has stays; as a directory it hides the one below.
  Result<void> apply_whiteouts() {
    for (const auto& [directory, names] : whiteouts_) {
      for (const auto& name : names) {
        if (name.empty() || name == "." || name == "..")
          return fail("an invalid whiteout '{}'", name);
        const auto own = tree_.child(directory, name);
        if (!own) {
          Inode whiteout;
          whiteout.mode = S_IFCHR;
          tree_.at(directory).children[name] = tree_.add(std::move(whiteout));
        } else if (tree_.at(*own).is_directory()) {
          tree_.at(*own).set_xattr(kOpaque, std::string(kOpaqueValue));
          tree_.at(*own).remove_xattr(kImplied);  // what it would be like is hidden
        }
      }
    }
    return {};
  }

  int out_;
  LayerLimits limits_;
  Tree tree_;
  std::map<InodeId, std::set<std::string>> whiteouts_;
  std::uint64_t next_block_ = 1;
  std::uint64_t entries_ = 0, name_bytes_ = 0, size_ = 0;
};

}  // namespace

Result<LayerImage> write_layer_image(ByteSource& compressed, int fd, const LayerLimits& limits) {
  const auto plain = TRY(Decompressor::create(compressed));
  HashingSource archive(*plain, limits.archive_bytes);
  TarReader tar(archive);
  TRY(tar.open());
  LayerWriter writer(fd, limits);
  while (TRY(tar.next())) TRY(writer.add(tar));
  LayerImage image;
  image.diff_id = TRY(archive.finish());  // what pads the archive belongs to it
  image.size = TRY(writer.finish());
  return image;
}

}  // namespace vmm::engine
