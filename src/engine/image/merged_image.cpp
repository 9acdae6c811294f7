#include "src/engine/image/merged_image.h"

#include <map>

#include "src/base/unique_fd.h"
#include "src/engine/erofs/format.h"
#include "src/engine/erofs/metadata.h"
#include "src/engine/erofs/reader.h"
#include "src/engine/image/layer_marks.h"

namespace vmm::engine {
namespace {

using erofs::Inode;
using erofs::InodeId;
using erofs::Tree;

constexpr std::uint64_t kMaxBlocks = 0xffff'ffff;

Inode plain_directory() {
  Inode inode;
  inode.mode = S_IFDIR | 0755;
  return inode;
}

void remove_marks(Inode& inode) {
  std::erase_if(inode.xattrs, [](const erofs::Xattr& xattr) {
    return xattr.name.starts_with(kOverlayPrefix) || xattr.name.starts_with(kVmmPrefix);
  });
}

// One layer that is laid over what is merged already.
class Overlay {
 public:
  Overlay(Tree& merged, const Tree& layer, std::uint32_t device_index)
      : merged_(merged), layer_(layer), device_index_(device_index) {}

  Result<void> apply() {
    // Links mean the layers below as they were, even if this one hides the file; only a link that
    // finds none there may mean the layer's own file by another way.
    find_targets(Layer::below);
    if (layer_.at(Tree::kRoot).xattr(kOpaque) != nullptr) merged_.at(Tree::kRoot).children.clear();
    TRY(merge_directory(Tree::kRoot, Tree::kRoot));
    find_targets(Layer::own);
    for (const auto& [link, directory, name] : late_) {
      const auto target = targets_.find(link);
      if (target == targets_.end()) {
        return fail("the hard link '{}' leads to '{}', which no layer has", name,
                    *layer_.at(link).xattr(kLink));
      }
      merged_.at(directory).children[name] = target->second;
    }
    return {};
  }

 private:
  enum class Layer : std::uint8_t { below, own };
  struct Late {
    InodeId link, directory;
    std::string name;
  };

  void find_targets(Layer which) {
    if (which == Layer::own && late_.empty()) return;
    for (InodeId id = 0; id < layer_.size(); ++id) {
      const auto* path = layer_.at(id).xattr(kLink);
      if (path == nullptr || targets_.contains(id)) continue;
      const auto slash = path->rfind('/');
      const auto directory =
          merged_.find_directory(path->substr(0, slash), Tree::Missing::fails, {});
      if (!directory || !*directory) continue;
      const auto file = merged_.child(**directory, path->substr(slash + 1));
      if (file && !merged_.at(*file).is_directory()) targets_[id] = *file;
    }
  }

  Result<void> merge_directory(InodeId from, InodeId to) {
    // One path for all levels: a name a level of its own would add up.
    const auto length = path_.size();
    for (const auto& [name, id] : layer_.at(from).children) {
      const Inode& inode = layer_.at(id);
      if (is_whiteout(inode)) {
        merged_.at(to).children.erase(name);
      } else if (inode.is_directory()) {
        path_ += "/" + name;
        TRY(merge_directory(id, TRY(directory_for(inode, to, name))));
        path_.resize(length);
      } else if (inode.xattr(kLink) == nullptr) {
        merged_.at(to).children[name] = import(id);
      } else if (const auto target = targets_.find(id); target != targets_.end()) {
        merged_.at(to).children[name] = target->second;
      } else {
        late_.push_back({id, to, name});
      }
    }
    return {};
  }

  // The merged directory that the layer's goes into.
  Result<InodeId> directory_for(const Inode& inode, InodeId parent, const std::string& name) {
    const bool is_implied = inode.xattr(kImplied) != nullptr;
    auto existing = merged_.child(parent, name);
    if (existing && is_implied && merged_.at(*existing).is_symlink()) {
      const auto target =
          merged_.find_directory(path_, Tree::Missing::is_created, plain_directory());
      existing = target ? *target : std::nullopt;
    }
    if (!existing || !merged_.at(*existing).is_directory()) {
      existing = merged_.add(plain_directory());
      merged_.at(parent).children[name] = *existing;
    }
    Inode& merged = merged_.at(*existing);
    if (inode.xattr(kOpaque) != nullptr) merged.children.clear();
    if (!is_implied) {
      auto children = std::move(merged.children);
      merged = inode;
      merged.children = std::move(children);
      remove_marks(merged);
    }
    return *existing;
  }

  // Names of one inode in the layer stay names of one.
  InodeId import(InodeId id) {
    if (const auto known = imported_.find(id); known != imported_.end()) return known->second;
    Inode inode = layer_.at(id);
    inode.device_index = device_index_;
    return imported_[id] = merged_.add(std::move(inode));
  }

  Tree& merged_;
  const Tree& layer_;
  std::uint32_t device_index_;
  std::string path_;  // of the layer's directory that is being merged
  std::map<InodeId, InodeId> imported_;
  std::map<InodeId, InodeId> targets_;  // merged files, by the layer's links
  std::vector<Late> late_;
};

}  // namespace

Result<void> write_merged_image(std::span<const int> layers, int fd) {
  Tree merged;
  std::vector<std::uint32_t> sizes;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto layer = TRY(erofs::read_image(layers[i]));
    sizes.push_back(layer.blocks);
    TRY(Overlay(merged, layer.tree, static_cast<std::uint32_t>(i)).apply());
  }
  const auto metadata = TRY(erofs::Metadata::plan(merged, 0));
  std::vector<std::uint32_t> starts;
  std::uint64_t blocks = metadata.blocks();
  for (const auto size : sizes) {
    starts.push_back(static_cast<std::uint32_t>(blocks));
    blocks += size;
    if (blocks > kMaxBlocks) return fail("the layers are larger than EROFS can be");
  }
  return write_all_at(fd, metadata.encode(starts, static_cast<std::uint32_t>(blocks)), 0);
}

}  // namespace vmm::engine
