#include "src/engine/erofs/tree.h"

#include <algorithm>
#include <deque>

#include "src/base/text.h"

namespace vmm::erofs {
namespace {

// As Linux follows on one way.
constexpr int kMaxLinks = 40;
// Of a path with its links followed: PATH_MAX allows as many.
constexpr std::size_t kMaxDepth = 2048;
constexpr std::uint64_t kMaxSteps = 500'000'000;

}  // namespace

const std::string* Inode::xattr(std::string_view name) const {
  const auto found = std::ranges::find(xattrs, name, &Xattr::name);
  return found == xattrs.end() ? nullptr : &found->value;
}

void Inode::set_xattr(std::string_view name, std::string value) {
  remove_xattr(name);
  xattrs.push_back({std::string(name), std::move(value)});
}

void Inode::remove_xattr(std::string_view name) {
  std::erase_if(xattrs, [name](const Xattr& xattr) { return xattr.name == name; });
}

std::uint32_t encode_device(std::uint32_t major, std::uint32_t minor) {
  return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

Tree::Tree() {
  Inode root;
  root.mode = S_IFDIR | 0755;
  inodes_.push_back(std::move(root));
}

InodeId Tree::add(Inode inode) {
  inodes_.push_back(std::move(inode));
  return static_cast<InodeId>(inodes_.size() - 1);
}

std::optional<InodeId> Tree::child(InodeId directory, const std::string& name) const {
  const auto& children = inodes_[directory].children;
  const auto found = children.find(name);
  if (found == children.end()) return std::nullopt;
  return found->second;
}

Result<std::optional<InodeId>> Tree::find_directory(std::string_view path, Missing missing,
                                                    const Inode& created) {
  std::deque<std::string> left;
  for (const auto part : split(path, '/')) left.emplace_back(part);
  std::vector<InodeId> way = {kRoot};
  int links = 0;
  while (!left.empty()) {
    const auto name = std::move(left.front());
    left.pop_front();
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      if (way.size() > 1) way.pop_back();
      continue;
    }
    if (++steps_ > kMaxSteps) return fail("names and symbolic links lead too far");
    if (way.size() > kMaxDepth) return fail("'{}' is nested too deep", path.substr(0, 200));
    auto next = child(way.back(), name);
    if (!next) {
      if (missing == Missing::fails) return std::nullopt;
      next = add(created);
      inodes_[way.back()].children[name] = *next;
    }
    const Inode& inode = inodes_[*next];
    if (inode.is_directory()) {
      way.push_back(*next);
    } else if (inode.is_symlink()) {
      if (++links > kMaxLinks) return fail("'{}' has too many symbolic links", path.substr(0, 200));
      if (inode.target.starts_with('/')) way.resize(1);
      const auto parts = split(inode.target, '/');
      left.insert(left.begin(), parts.begin(), parts.end());
    } else if (missing == Missing::fails) {
      return std::nullopt;
    } else {
      return fail("'{}' leads through '{}', which is not a directory", path.substr(0, 200), name);
    }
  }
  return way.back();
}

std::vector<std::string> clean_components(std::string_view path) {
  std::vector<std::string> components;
  for (const auto part : split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      components.emplace_back(part);
    } else if (!components.empty()) {
      components.pop_back();
    }
  }
  return components;
}

}  // namespace vmm::erofs
