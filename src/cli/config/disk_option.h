// --disk PATH[,key=value...]
#pragma once

#include <string_view>

#include "devices/backend/disk/disk_config.h"
#include "src/base/result.h"

namespace vmm::config {

Result<disk::DiskConfig> parse_disk_option(std::string_view text);
// The keys, one a line, for --help.
std::string describe_disk_option();

}  // namespace vmm::config
