// Random layers, merged, against a model of the rules of the OCI image-spec (layer.md) that knows
// paths only: it shares nothing with the code that is tested. The result is read by this library,
// and by Linux where it may be mounted here; fsck.erofs looks at each image where it is installed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>

#include "src/engine/image/layer_fixture.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

// What a file is in the end, in words; hard links share one.
struct Node {
  erofs::Inode inode;
  std::string content;
};
using Model = std::map<std::string, std::shared_ptr<Node>>;  // by path; the root is not in it

bool is_directory(const Model& model, const std::string& path) {
  return path.empty() || (model.contains(path) && S_ISDIR(model.at(path)->inode.mode));
}
std::string parent_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

void erase_below(Model& model, const std::string& path) {
  std::erase_if(model, [&](const auto& entry) { return entry.first.starts_with(path + "/"); });
}

std::size_t hash(std::string_view text) { return std::hash<std::string_view>{}(text); }

std::string describe(const erofs::Inode& inode, std::string_view content) {
  std::string text = fmt::format("{:o} {}:{} {}.{:09}", inode.mode, inode.uid, inode.gid,
                                 inode.mtime, inode.mtime_ns);
  if (S_ISCHR(inode.mode) || S_ISBLK(inode.mode)) text += fmt::format(" {}", inode.rdev);
  std::map<std::string, std::string> xattrs;
  for (const auto& xattr : inode.xattrs) xattrs[xattr.name] = xattr.value;
  for (const auto& [name, value] : xattrs)
    text += fmt::format(" {}={} {}", name, value.size(), hash(value));
  if (inode.is_symlink()) text += " -> " + inode.target;
  if (S_ISREG(inode.mode)) {
    text += fmt::format(" {} {}", content.size(), hash(content));
  }
  return text;
}

// A line a path; names of one file say the first of them.
using Listing = std::map<std::string, std::string>;

std::string difference(const Listing& seen, const Listing& expected) {
  std::string text;
  const auto compare = [&text](const Listing& some, const Listing& others, std::string_view what) {
    for (const auto& [path, line] : some) {
      const auto other = others.find(path);
      if (other == others.end() || other->second != line) {
        text += fmt::format("{} {}: {}\n", what, path, line);
      }
    }
  };
  compare(seen, expected, "seen");
  compare(expected, seen, "expected");
  return text;
}

Listing list_model(const Model& model) {
  Listing listing;
  std::map<const Node*, std::string> first;
  for (const auto& [path, node] : model) {
    listing[path] = describe(node->inode, node->content);
    if (!S_ISDIR(node->inode.mode))
      listing[path] += " of " + first.emplace(node.get(), path).first->second;
  }
  return listing;
}

void list_tree(int disk, const erofs::Tree& tree, erofs::InodeId id, const std::string& path,
               std::map<erofs::InodeId, std::string>& first, Listing& listing) {
  for (const auto& [name, child] : tree.at(id).children) {
    const auto& inode = tree.at(child);
    const auto full = path + "/" + name;
    listing[full] = describe(inode, S_ISREG(inode.mode) ? content_of(disk, inode) : "");
    if (!inode.is_directory()) listing[full] += " of " + first.emplace(child, full).first->second;
    if (inode.is_directory()) list_tree(disk, tree, child, full, first, listing);
  }
}

// As Linux shows it.
Listing list_mounted(const std::string& root) {
  Listing listing;
  std::map<ino_t, std::string> first;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    paths.push_back(entry.path().string());
  }
  std::ranges::sort(paths);
  for (const auto& full : paths) {
    const auto path = full.substr(root.size());
    struct stat status{};
    EXPECT_EQ(::lstat(full.c_str(), &status), 0) << full;
    erofs::Inode inode;
    inode.mode = status.st_mode;
    inode.uid = status.st_uid;
    inode.gid = status.st_gid;
    inode.mtime = status.st_mtim.tv_sec;
    inode.mtime_ns = static_cast<std::uint32_t>(status.st_mtim.tv_nsec);
    inode.rdev = erofs::encode_device(major(status.st_rdev), minor(status.st_rdev));
    std::array<char, 8192> names{}, value{};
    const auto size = ::llistxattr(full.c_str(), names.data(), names.size());
    EXPECT_GE(size, 0) << full;
    for (const char* name = names.data(); name < names.data() + size;
         name += std::strlen(name) + 1) {
      const auto n = ::lgetxattr(full.c_str(), name, value.data(), value.size());
      EXPECT_GE(n, 0) << full << " " << name;
      inode.xattrs.push_back({name, std::string(value.data(), static_cast<std::size_t>(n))});
    }
    if (inode.is_symlink()) inode.target = std::filesystem::read_symlink(full).string();
    std::string content;
    if (S_ISREG(inode.mode)) {
      std::ifstream file(full, std::ios::binary);
      content.assign(std::istreambuf_iterator<char>(file), {});
    }
    listing[path] = describe(inode, content);
    if (!inode.is_directory())
      listing[path] += " of " + first.emplace(status.st_ino, path).first->second;
  }
  return listing;
}

class Generator {
 public:
  explicit Generator(std::uint32_t seed) : random_(seed) {}

  // The next layer's archive; the model becomes what is to be seen with it.
  std::vector<Entry> layer() {
    std::vector<Entry> entries;
    const Model lower = model_;
    const auto hidden = pick_whiteouts(entries);
    const auto count = entries.size();
    for (auto left = below(12); left > 0; --left) add_entry(entries, lower);
    // Whiteouts stand anywhere, if what is in the way of their names is still a directory.
    const bool may_move = std::ranges::all_of(
        hidden, [this](const auto& path) { return is_directory(model_, parent_of(path)); });
    if (may_move && below(2) == 0) {
      std::rotate(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(count),
                  entries.end());
    }
    return entries;
  }

  const Model& model() const { return model_; }

 private:
  std::uint32_t number() { return static_cast<std::uint32_t>(random_()); }
  std::uint32_t below(std::uint32_t limit) { return number() % limit; }

  std::string some_path() {
    static constexpr std::array kNames = {"a", "b", "-", "lib", "\u00fc", "z.z", "B"};
    std::string path;
    for (auto depth = 1 + below(3); depth > 0; --depth) {
      path += std::string("/") + kNames[below(kNames.size())];
    }
    return path;
  }

  std::string existing_path(const Model& model) {
    if (model.empty()) return "";
    return std::next(model.begin(), below(static_cast<std::uint32_t>(model.size())))->first;
  }

  std::vector<std::string> pick_whiteouts(std::vector<Entry>& entries) {
    std::vector<std::string> hidden;
    const auto is_hidden = [&hidden](const std::string& path) {
      return std::ranges::any_of(hidden, [&path](const auto& other) {
        return (path + "/").starts_with(other + "/") || (other + "/").starts_with(path + "/");
      });
    };
    for (auto left = below(4); left > 0; --left) {
      const auto path = existing_path(model_);
      if (path.empty() || is_hidden(path)) continue;
      const bool is_opaque = S_ISDIR(model_.at(path)->inode.mode) && below(3) == 0;
      erase_below(model_, path);
      if (is_opaque) {
        entries.push_back(whiteout(path + "/", ".wh..opq"));
        hidden.push_back(path + "/x");
      } else {
        model_.erase(path);
        entries.push_back(whiteout(parent_of(path) + "/", path.substr(path.rfind('/') + 1)));
        hidden.push_back(path);
      }
    }
    return hidden;
  }

  void add_entry(std::vector<Entry>& entries, const Model& lower) {
    const auto path = some_path();
    for (auto up = parent_of(path); !up.empty(); up = parent_of(up)) {
      if (model_.contains(up) && !is_directory(model_, up)) return;
    }
    auto node = std::make_shared<Node>();
    Entry entry = some_entry(path, lower, node);
    for (auto up = parent_of(path); !up.empty(); up = parent_of(up)) {
      if (model_.contains(up)) continue;
      model_[up] = std::make_shared<Node>();
      model_[up]->inode.mode = S_IFDIR | 0755;
    }
    if (!S_ISDIR(node->inode.mode)) erase_below(model_, path);
    model_[path] = node;
    entries.push_back(std::move(entry));
  }

  Entry some_entry(const std::string& path, const Model& lower, std::shared_ptr<Node>& node) {
    const auto kind = below(10);
    if (kind == 0) {
      // To a file of this layer, or one below, hidden or not.
      const auto target = existing_path(below(2) == 0 ? model_ : lower);
      const auto& model = model_.contains(target) ? model_ : lower;
      if (!target.empty() && !is_directory(model, target) &&
          !(path + "/").starts_with(target + "/")) {
        node = model.at(target);
        Entry link = hard_link(path, target);
        link.inode.mode = S_IFREG | below(010000);
        set_owner_and_time(link.inode);
        const bool is_own =
            std::ranges::none_of(lower, [&node](const auto& one) { return one.second == node; });
        if (is_own) take_attributes(node->inode, link.inode);
        return link;
      }
    }
    Entry entry = kind < 3    ? directory(path, 0700)
                  : kind == 3 ? symlink(path, "to/" + std::string(below(2000), 't'))
                              : file(path, some_content());
    auto& inode = entry.inode;
    if (kind == 4) inode = inode_of(S_IFIFO | 0600);
    if (kind == 5) {
      inode = inode_of((below(2) == 0 ? S_IFCHR : S_IFBLK) | 0620);
      inode.rdev = static_cast<std::uint32_t>(makedev(1 + below(200), below(100'000)));
    }
    if (!S_ISREG(inode.mode)) entry.content.clear();
    set_owner_and_time(inode);
    if (below(4) == 0 && !inode.is_symlink()) {
      inode.xattrs.push_back(
          {"security.capability", std::string("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20)});
    }
    if (below(4) == 0 && (S_ISREG(inode.mode) || inode.is_directory())) {
      inode.xattrs.push_back({"user.some", std::string(below(3000), 'v')});
    }
    node->inode = inode;
    node->content = entry.content;
    if (S_ISCHR(inode.mode) || S_ISBLK(inode.mode)) {
      node->inode.rdev = erofs::encode_device(major(dev_t{inode.rdev}), minor(dev_t{inode.rdev}));
    }
    return entry;
  }

  void set_owner_and_time(erofs::Inode& inode) {
    inode.uid = below(2) == 0 ? 0 : number() >> 1;
    inode.gid = below(100'000);
    inode.mtime = number();
    inode.mtime_ns = below(1'000'000'000);
  }

  // The last of a file's names in a layer says what it is like.
  static void take_attributes(erofs::Inode& file, const erofs::Inode& link) {
    if (!file.is_symlink()) file.mode = (file.mode & S_IFMT) | (link.mode & 07777);
    file.uid = link.uid;
    file.gid = link.gid;
    file.mtime = link.mtime;
    file.mtime_ns = link.mtime_ns;
    std::erase_if(file.xattrs, [](const auto& one) { return one.name == "security.capability"; });
  }

  std::string some_content() {
    std::string content(below(3) == 0 ? 0 : below(20'000), static_cast<char>(below(3)));
    for (auto left = below(4); left > 0 && !content.empty(); --left) {
      content[below(static_cast<std::uint32_t>(content.size()))] = static_cast<char>(random_());
    }
    return content;
  }

  std::mt19937 random_;
  Model model_;
};

void write_file(const std::string& path, int from) {
  const auto to = *open_file(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
  append(to.get(), from);
}

bool fsck_is_installed() { return ::access("/usr/bin/fsck.erofs", X_OK) == 0; }

void expect_in_order(const std::string& path, std::uint32_t seed) {
  EXPECT_EQ(std::system(fmt::format("fsck.erofs --extract {} >{}.log 2>&1", path, path).c_str()), 0)
      << "seed " << seed << ": fsck.erofs " << path << ": " << *read_text_file(path + ".log");
}

// Mounts are of this process only, and go with it.
bool may_mount(const TestDirectory& directory, const std::string& image) {
  static const bool apart = ::unshare(CLONE_NEWNS) == 0 &&
                            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  if (!apart) return false;
  std::filesystem::create_directories(directory / "mounted");
  // Linux 6.12 mounts a file as it is; older ones a block device only.
  return ::mount(image.c_str(), (directory / "mounted").c_str(), "erofs", MS_RDONLY, nullptr) == 0;
}

TEST(LayerProperty, MergedLayersAreWhatTheSpecificationSays) {
  constexpr std::uint32_t kRounds = 60;
  // Others by --gtest_random_seed=N (tools/test: $VMM_TEST_SEED).
  const auto first_seed =
      1 + kRounds * static_cast<std::uint32_t>(testing::UnitTest::GetInstance()->random_seed());
  int mounted = 0;
  for (auto seed = first_seed; seed < first_seed + kRounds; ++seed) {
    TestDirectory directory;
    Generator generator(seed);
    std::vector<UniqueFd> layers;
    for (std::uint32_t i = 0; i < 1 + seed % 5; ++i) {
      auto layer = layer_of(generator.layer());
      ASSERT_TRUE(layer) << "seed " << seed << ": " << layer.error().message();
      layers.push_back(std::move(*layer));
    }
    const auto disk = disk_of(layers);
    ASSERT_TRUE(disk) << "seed " << seed << ": " << disk.error().message();
    const auto expected = list_model(generator.model());
    const auto image = erofs::read_image(disk->get());
    ASSERT_TRUE(image) << image.error().message();
    Listing seen;
    std::map<erofs::InodeId, std::string> first;
    list_tree(disk->get(), image->tree, erofs::Tree::kRoot, "", first, seen);
    ASSERT_EQ(difference(seen, expected), "") << "seed " << seed;
    const auto path = directory / "disk";
    write_file(path, disk->get());
    if (may_mount(directory, path)) {
      ++mounted;
      const auto linux_sees = list_mounted(directory / "mounted");
      ASSERT_EQ(::umount((directory / "mounted").c_str()), 0);
      ASSERT_EQ(difference(linux_sees, expected), "") << "seed " << seed << ", as Linux sees it";
    }
    if (!fsck_is_installed() || seed >= first_seed + kRounds / 4) continue;
    expect_in_order(path, seed);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto layer = directory / fmt::format("layer{}", i);
      write_file(layer, layers[i].get());
      expect_in_order(layer, seed);
    }
  }
  RecordProperty("mounted", mounted);
  if (mounted == 0) GTEST_SKIP() << "read by this library only: EROFS cannot be mounted here";
}

}  // namespace
}  // namespace vmm::engine
