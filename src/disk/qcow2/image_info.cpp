#include "src/disk/qcow2/image_info.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <set>

#include "src/base/unique_fd.h"
#include "src/disk/image_lock.h"
#include "src/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {
namespace {

struct File {
  UniqueFd fd;
  std::uint64_t size = 0;
  struct stat status{};
};

Result<File> open_for_info(const std::string& path) {
  File file;
  // Before it is opened: a FIFO or a tape would notice.
  if (::stat(path.c_str(), &file.status) < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return fail("disk '{}' does not exist", path);
    return fail_errno("cannot examine disk '{}'", path);
  }
  if (S_ISDIR(file.status.st_mode)) {
    return fail("disk '{}' is a directory; name a file or a block device", path);
  }
  if (!S_ISREG(file.status.st_mode) && !S_ISBLK(file.status.st_mode)) {
    return fail("disk '{}' is neither a file nor a block device", path);
  }
  file.fd = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
  if (::fstat(file.fd.get(), &file.status) < 0) return fail_errno("cannot examine '{}'", path);
  file.size = static_cast<std::uint64_t>(file.status.st_size);
  if (S_ISBLK(file.status.st_mode) && ::ioctl(file.fd.get(), BLKGETSIZE64, &file.size) < 0) {
    return fail_errno("cannot find the size of disk '{}'", path);
  }
  return file;
}

// What the file has not is zero.
Result<void> read_start(const File& file, std::span<std::byte> target, const std::string& path) {
  const std::uint64_t there = std::min<std::uint64_t>(target.size(), file.size);
  if (const auto read = read_exact_at(file.fd.get(), target.first(there), 0); !read) {
    return fail("cannot read disk '{}': {}", path, read.error().message());
  }
  return {};
}

Result<Header> header_of(const File& file, const std::string& path) {
  std::array<std::byte, 24> start{};
  TRY(read_start(file, start, path));
  std::vector<std::byte> cluster(TRY(header_extent(start, path)));
  TRY(read_start(file, cluster, path));
  return parse_header(cluster, file.size, path);
}

// The chain behind an image; what it found before an error is there.
Result<void> find_backing(ImageInfo& info, const struct stat& top) {
  std::set<std::pair<dev_t, ino_t>> seen{{top.st_dev, top.st_ino}};
  std::string path = info.path;
  Header header = info.header;
  while (!header.backing_path.empty()) {
    const auto named = TRY(Chain::backing_of(path, header));
    auto file = open_for_info(named.path);
    if (!file) return fail("backing file of disk '{}': {}", info.path, file.error().message());
    if (!seen.insert({file->status.st_dev, file->status.st_ino}).second) {
      return fail("disk '{}': its backing files form a loop: '{}' comes twice", info.path,
                  named.path);
    }
    if (info.backing.size() + 1 >= kMaxChain) {
      return fail("disk '{}' has more than {} backing files behind one another", info.path,
                  kMaxChain - 1);
    }
    path = named.path;
    header = Header{};
    if (named.format == ImageFormat::qcow2) {
      auto parsed = header_of(*file, path);
      if (!parsed)
        return fail("backing file of disk '{}': {}", info.path, parsed.error().message());
      header = std::move(*parsed);
    }
    info.backing.push_back({named.path, named.format});
  }
  return {};
}

}  // namespace

Result<ImageInfo> describe_image(const std::string& path, ImageFormat format) {
  ImageInfo info;
  info.path = path;
  const auto file = TRY(open_for_info(path));
  info.size = file.size;
  info.space = static_cast<std::uint64_t>(file.status.st_blocks) * 512;
  info.in_use = !lock_image(file.fd.get(), path, ImageUse::read).has_value();
  info.format = format == ImageFormat::automatic ? TRY(probe_format(path)) : format;
  if (info.format == ImageFormat::raw) return info;
  info.header = TRY(header_of(file, path));
  info.size = info.header.size;
  info.dirty = (info.header.incompatible & kIncompatibleDirty) != 0;
  info.damaged = (info.header.incompatible & kIncompatibleCorrupt) != 0;
  if (const auto found = find_backing(info, file.status); !found) {
    info.backing_error = found.error().message();
  }
  return info;
}

}  // namespace vmm::disk::qcow2
