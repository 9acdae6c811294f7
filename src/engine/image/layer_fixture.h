// For tests: archives of layers from lists of entries, their images, and the disk that a machine
// would get.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <string>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/engine/erofs/format.h"
#include "src/engine/erofs/reader.h"
#include "src/engine/image/layer_image.h"
#include "src/engine/image/merged_image.h"
#include "src/engine/image/tar_writer.h"

namespace vmm::engine {

struct Entry {
  std::string name;
  erofs::Inode inode;
  std::string content, hard_link;
};

inline erofs::Inode inode_of(mode_t mode) {
  erofs::Inode inode;
  inode.mode = mode;
  return inode;
}
inline Entry file(std::string name, std::string content, mode_t mode = 0644) {
  auto inode = inode_of(S_IFREG | mode);
  inode.size = content.size();
  return {std::move(name), inode, std::move(content), ""};
}
inline Entry directory(std::string name, mode_t mode = 0755) {
  return {std::move(name), inode_of(S_IFDIR | mode), "", ""};
}
inline Entry symlink(std::string name, std::string target) {
  auto inode = inode_of(S_IFLNK | 0777);
  inode.target = std::move(target);
  return {std::move(name), inode, "", ""};
}
inline Entry hard_link(std::string name, std::string target) {
  return {std::move(name), inode_of(S_IFREG | 0644), "", std::move(target)};
}
inline Entry whiteout(const std::string& directory, const std::string& name) {
  return file(directory + ".wh." + name, "");
}

inline UniqueFd memory_file() { return UniqueFd(::memfd_create("layer-test", MFD_CLOEXEC)); }

inline UniqueFd archive_of(const std::vector<Entry>& entries) {
  auto fd = memory_file();
  TarWriter tar(fd.get());
  EXPECT_TRUE(tar.open());
  for (const auto& entry : entries) {
    const auto added = tar.add(entry.inode, {entry.name, entry.hard_link}, entry.content);
    EXPECT_TRUE(added) << entry.name << ": " << added.error().message();
  }
  EXPECT_TRUE(tar.finish());
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_SET), 0);
  return fd;
}

inline Result<UniqueFd> layer_of_archive(int archive, const LayerLimits& limits = {}) {
  auto fd = memory_file();
  FileSource source(archive);
  TRY(write_layer_image(source, fd.get(), limits));
  return fd;
}
inline Result<UniqueFd> layer_of(const std::vector<Entry>& entries,
                                 const LayerLimits& limits = {}) {
  return layer_of_archive(archive_of(entries).get(), limits);
}

inline void append(int to, int from) {
  std::vector<std::byte> bytes(1u << 20);
  FileSource source(from);
  ASSERT_EQ(::lseek(from, 0, SEEK_SET), 0);
  while (const auto n = *source.read(bytes)) {
    ASSERT_TRUE(write_all(to, std::span(bytes).first(n)));
  }
}

// Metadata and layers, one behind another.
inline Result<UniqueFd> disk_of(const std::vector<UniqueFd>& layers) {
  std::vector<int> descriptors;
  for (const auto& layer : layers) descriptors.push_back(layer.get());
  auto disk = memory_file();
  TRY(write_merged_image(descriptors, disk.get()));
  if (::lseek(disk.get(), 0, SEEK_END) < 0) return fail_errno("cannot seek");
  for (const auto& layer : layers) append(disk.get(), layer.get());
  return disk;
}
inline Result<UniqueFd> disk_of(const std::vector<std::vector<Entry>>& layers) {
  std::vector<UniqueFd> images;
  for (const auto& entries : layers) images.push_back(TRY(layer_of(entries)));
  return disk_of(images);
}

// "PATH TYPE CONTENT" of all files of a disk, sorted by path; a type of one letter as find has it.
void list_directory(int disk, const erofs::Tree& tree, erofs::InodeId id, const std::string& path,
                    std::string& text);
inline std::string list_disk(const Result<UniqueFd>& disk) {
  if (!disk) return "error: " + disk.error().message();
  const auto image = erofs::read_image(disk->get());
  if (!image) return "error: " + image.error().message();
  std::string text;
  list_directory(disk->get(), image->tree, erofs::Tree::kRoot, "", text);
  return text;
}

inline std::string content_of(int disk, const erofs::Inode& inode) {
  std::string content(inode.size, 0);
  EXPECT_TRUE(read_exact_at(disk, std::as_writable_bytes(std::span(content)),
                            std::uint64_t{inode.first_block} * erofs::kBlockSize));
  return content;
}

inline void list_directory(int disk, const erofs::Tree& tree, erofs::InodeId id,
                           const std::string& path, std::string& text) {
  for (const auto& [name, child] : tree.at(id).children) {
    const auto& inode = tree.at(child);
    const auto full = path + "/" + name;
    if (inode.is_directory()) {
      text += fmt::format("{} d {:o}\n", full, inode.mode & 07777);
      list_directory(disk, tree, child, full, text);
    } else if (inode.is_symlink()) {
      text += fmt::format("{} l {}\n", full, inode.target);
    } else if (S_ISREG(inode.mode)) {
      text += fmt::format("{} f {}\n", full, content_of(disk, inode));
    } else {
      text += fmt::format("{} {} {}\n", full, S_ISFIFO(inode.mode) ? 'p' : 'c', inode.rdev);
    }
  }
}

}  // namespace vmm::engine
