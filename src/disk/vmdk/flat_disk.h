// FlatDisk: a read-only disk whose bytes are those of several files, one behind the other, as a
// VMDK descriptor lists them. QEMU reads the same file. An image of layers is one disk this way,
// and the layers' files, with their pages in the page cache, are shared by all images that have
// them.
#pragma once

#include <memory>
#include <vector>

#include "src/disk/raw_file.h"
#include "src/disk/vmdk/descriptor.h"

namespace vmm::disk::vmdk {

// A part of the disk, in a file.
struct Part {
  std::uint64_t begin = 0;   // on the disk, bytes
  std::uint64_t length = 0;  // bytes
  std::size_t file = 0;      // its place among the disk's files
  std::uint64_t offset = 0;  // in the file, bytes

  std::uint64_t end() const { return begin + length; }
};

class FlatDisk : public Disk {
 public:
  // Files are looked for beside the descriptor. Every one is opened and locked as a raw disk is.
  static Result<std::unique_ptr<FlatDisk>> open(const DiskConfig& config);

  const DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return name_; }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override { return {}; }
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override;
  Result<DataRange> next_data(std::uint64_t offset) override;

  // In the order of the disk, without gaps.
  std::span<const Part> parts() const { return parts_; }
  // The part that `offset`, inside of the disk, lies in.
  std::size_t part_at(std::uint64_t offset) const;
  std::size_t file_count() const { return files_.size(); }
  RawFile& file(std::size_t index) { return *files_[index]; }

 private:
  FlatDisk(std::string name, IoEngine io) : name_(std::move(name)), io_(io) {}
  Result<void> add(const Extent& extent, const DiskConfig& config);
  Result<std::size_t> find_file(const std::string& path, const DiskConfig& config);

  std::string name_;
  IoEngine io_;
  DiskInfo info_;
  std::vector<Part> parts_;
  std::vector<std::unique_ptr<RawFile>> files_;  // each once, however many extents it has
};

}  // namespace vmm::disk::vmdk
