#include "src/disk/qcow2/probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>

#include "src/base/unique_fd.h"

namespace vmm::disk::qcow2 {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  std::size_t at;
  std::string_view name;    // for people
  std::string_view option;  // of qemu-img -f
};

constexpr std::string_view kVhd = "conectix";

// The most specific ones first.
constexpr std::array kMagics = {
    Magic{"QFI\xfb\0\0\0\1"sv, 0, "qcow (version 1)", "qcow"},
    Magic{"QFI\xfb"sv, 0, "qcow2", "qcow2"},
    Magic{"KDMV"sv, 0, "VMDK", "vmdk"},
    Magic{"COWD"sv, 0, "VMDK", "vmdk"},
    Magic{"# Disk DescriptorFile"sv, 0, "VMDK", "vmdk"},
    Magic{kVhd, 0, "VHD", "vpc"},
    Magic{"vhdxfile"sv, 0, "VHDX", "vhdx"},
    Magic{"\x7f\x10\xda\xbe"sv, 64, "VDI", "vdi"},
    Magic{"QED\0"sv, 0, "QED", "qed"},
    Magic{"WithoutFreeSpace"sv, 0, "Parallels", "parallels"},
    Magic{"WithouFreSpacExt"sv, 0, "Parallels", "parallels"},
    Magic{"LUKS\xba\xbe"sv, 0, "LUKS", "luks"},
    Magic{"Bochs Virtual HD Image"sv, 0, "Bochs", "bochs"},
    Magic{"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"sv, 0, "cloop", "cloop"},
};
constexpr std::size_t kLooksAt = 128;

// A VHD of fixed size begins with the disk's content: its magic is in a footer alone (Virtual Hard
// Disk Image Format Specification, "Hard Disk Footer Format").
constexpr std::size_t kVhdFooter = 512;

bool has_vhd_footer(int fd) {
  const off_t size = ::lseek(fd, 0, SEEK_END);
  if (size <= static_cast<off_t>(kVhdFooter)) return false;
  std::array<char, kVhd.size()> magic{};
  return ::pread(fd, magic.data(), magic.size(), size - static_cast<off_t>(kVhdFooter)) ==
             static_cast<ssize_t>(magic.size()) &&
         std::string_view(magic.data(), magic.size()) == kVhd;
}

std::unexpected<Error> not_supported(const std::string& path, std::string_view name,
                                     std::string_view option) {
  return fail(
      "disk '{}' is a {} image, which is not supported: convert it with `qemu-img convert -f {} "
      "-O qcow2 {} NEW`, or name its format as raw if a guest wrote these bytes",
      path, name, option, path);
}

}  // namespace

Result<ImageFormat> parse_format(std::string_view name) {
  if (name == "raw") return ImageFormat::raw;
  if (name == "qcow2") return ImageFormat::qcow2;
  return fail("'{}' is not a known format: raw or qcow2 is", name);
}

std::string_view format_name(ImageFormat format) {
  switch (format) {
    case ImageFormat::qcow2:
      return "qcow2";
    case ImageFormat::vmdk:
      return "vmdk";
    case ImageFormat::automatic:
    case ImageFormat::raw:
      break;
  }
  return "raw";
}

Result<ImageFormat> probe_format(const std::string& path) {
  const auto fd = open_file(path, O_RDONLY | O_NONBLOCK);
  if (!fd) return ImageFormat::raw;
  std::array<char, kLooksAt> start{};
  const ssize_t size = ::pread(fd->get(), start.data(), start.size(), 0);
  const std::string_view text(start.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  for (const Magic& magic : kMagics) {
    if (text.size() < magic.at || !text.substr(magic.at).starts_with(magic.bytes)) continue;
    if (magic.option == format_name(ImageFormat::qcow2)) return ImageFormat::qcow2;
    if (magic.bytes.starts_with('#') && magic.option == format_name(ImageFormat::vmdk)) {
      return fail(
          "disk '{}' is a VMDK descriptor, a list of other files: name its format, vmdk, if you "
          "know which files these are, or raw if a guest wrote these bytes",
          path);
    }
    return not_supported(path, magic.name, magic.option);
  }
  if (has_vhd_footer(fd->get())) return not_supported(path, "VHD", "vpc");
  return ImageFormat::raw;
}

}  // namespace vmm::disk::qcow2
