#include "src/engine/runtime/tar_files.h"

#include <algorithm>
#include <array>

#include "src/engine/image/tar_reader.h"

namespace vmm::engine {
namespace {

using protocol::files::End;
using protocol::files::Entry;
using protocol::files::Piece;

constexpr std::array<std::byte, 65536> kZeros{};
constexpr std::size_t kMaxXattrs = 65536;  // of a value, and of all names, as in the kernel

Entry entry_of(const TarReader& tar) {
  const auto inode = tar.attributes();
  Entry entry;
  entry.mode = inode.mode;
  entry.uid = inode.uid;
  entry.gid = inode.gid;
  entry.mtime = static_cast<std::uint64_t>(inode.mtime);
  entry.mtime_ns = inode.mtime_ns;
  entry.major = inode.rdev >> 8 & 0xfff;
  entry.minor = (inode.rdev & 0xff) | (inode.rdev >> 12 & ~0xffu);
  for (const auto& xattr : inode.xattrs) {
    const auto bytes = std::as_bytes(std::span(xattr.value));
    entry.xattrs.push_back({xattr.name, {bytes.begin(), bytes.end()}});
  }
  return entry;
}

std::string clean(const std::string& name) {
  const auto parts = erofs::clean_components(name);
  return files::join(parts, parts.size());
}

}  // namespace

Result<void> TarOfFiles::take(const protocol::agent::Message& message) {
  if (message.type == Entry::kType) return add(TRY(protocol::agent::decode<Entry>(message)));
  return write(TRY(protocol::agent::decode<Piece>(message)));
}

Result<std::string> TarOfFiles::check(const std::string& name) const {
  const auto parts = TRY(files::parts_of_name(name));
  if (!only_.empty() && (parts.empty() ? name != only_ : only_ != "." && parts[0] != only_)) {
    return fail("the machine says '{}', which was not asked for", name);
  }
  const auto plain = files::join(parts, parts.size());
  if (only_ == ".") return parts.empty() ? std::string("./") : "./" + plain;
  return plain;
}

Result<void> TarOfFiles::add(const Entry& entry) {
  TRY(fill_to(size_));
  name_ = TRY(check(entry.name));
  if (name_.empty()) return fail("the machine says a file without a name");
  erofs::Inode inode;
  inode.mode = entry.mode;
  inode.uid = entry.uid;
  inode.gid = entry.gid;
  inode.mtime = static_cast<std::int64_t>(entry.mtime);
  inode.mtime_ns = entry.mtime_ns % 1'000'000'000;
  inode.rdev = erofs::encode_device(entry.major & 0xfff, entry.minor & 0xfffff);
  inode.target = entry.target;
  std::size_t names = 0;
  for (const auto& xattr : entry.xattrs) {
    names += xattr.name.size() + 1;
    if (names > kMaxXattrs) {
      return fail("the names of extended attributes of '{}' are longer than {} bytes", name_,
                  kMaxXattrs);
    }
    if (xattr.value.size() > kMaxXattrs) {
      return fail("an extended attribute of '{}' is longer than {} bytes", name_, kMaxXattrs);
    }
    inode.set_xattr(xattr.name,
                    {reinterpret_cast<const char*>(xattr.value.data()), xattr.value.size()});
  }
  const auto link = entry.hard_link.empty() ? std::string() : TRY(check(entry.hard_link));
  const bool has_data = S_ISREG(entry.mode) && link.empty();
  inode.size = has_data ? entry.size : 0;
  TRY(check_room(inode.size));
  size_ = inode.size;
  written_ = 0;
  TRY(tar_.add(inode, {name_, link}));
  return check_room(inode.size);  // how long a header is, only the archive knows
}

Result<void> TarOfFiles::check_room(std::uint64_t size) const {
  const auto written = tar_.written();
  if (written <= limit_ && size <= limit_ - written) return {};
  return fail("its files take more than {} bytes", limit_);
}

Result<void> TarOfFiles::write(const Piece& piece) {
  if (piece.offset < written_ || piece.offset > size_ ||
      piece.bytes.size() > size_ - piece.offset) {
    return fail("the machine says data outside of '{}'", name_);
  }
  TRY(fill_to(piece.offset));
  written_ += piece.bytes.size();
  return tar_.write(piece.bytes);
}

Result<void> TarOfFiles::fill_to(std::uint64_t offset) {
  while (written_ < offset) {
    const auto n = std::min<std::uint64_t>(kZeros.size(), offset - written_);
    TRY(tar_.write(std::span(kZeros).first(n)));
    written_ += n;
  }
  return {};
}

Result<void> TarOfFiles::finish() {
  TRY(fill_to(size_));
  return tar_.finish();
}

Result<void> send_archive(ByteSource& archive, const files::Send& send) {
  const auto plain = TRY(Decompressor::create(archive));
  TarReader tar(*plain);
  TRY(tar.open());
  while (TRY(tar.next())) {
    if (tar.kind() == TarReader::Kind::other) continue;
    auto entry = entry_of(tar);
    entry.name = clean(tar.name());
    if (tar.kind() == TarReader::Kind::hard_link) {
      entry.hard_link = clean(tar.link_target());
    } else if (tar.kind() == TarReader::Kind::symlink) {
      entry.target = tar.link_target();
    } else if (tar.kind() == TarReader::Kind::file) {
      entry.size = tar.size();
    }
    TRY(send(protocol::agent::encode(entry)));
    if (tar.kind() != TarReader::Kind::file) continue;
    while (const auto piece = TRY(tar.read())) {
      for (std::size_t at = 0; at < piece->bytes.size(); at += kZeros.size()) {
        const auto part =
            piece->bytes.subspan(at, std::min(kZeros.size(), piece->bytes.size() - at));
        TRY(send(protocol::agent::encode(Piece{piece->offset + at, {part.begin(), part.end()}})));
      }
    }
  }
  return send(protocol::agent::encode(End{}));
}

}  // namespace vmm::engine
