// What the bytes of a file are: the names of formats, and how a file is recognised.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/disk/disk_config.h"

namespace vmm::disk::qcow2 {

// How a format is named in images and on command lines.
Result<ImageFormat> parse_format(std::string_view name);
std::string_view format_name(ImageFormat format);

// By the file's first bytes. Error: it is an image of another program's format, which as a raw disk
// would be garbage. A file that cannot be read counts as raw: opening it tells why.
Result<ImageFormat> probe_format(const std::string& path);

}  // namespace vmm::disk::qcow2
