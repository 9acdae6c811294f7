// VsockConfig: what a vsock device is asked to be.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/spec/fields.h"

namespace vmm::virtio {

struct VsockConfig {
  std::uint32_t cid = 3;  // the guest's address; 0 to 2 and the highest are taken (5.10.4)
  // A Unix socket that the host reaches the guest's ports through; the guest reaches port N of the
  // host where somebody listens at PATH_N. Empty: nobody answers the guest.
  std::string path;
  friend bool operator==(const VsockConfig&, const VsockConfig&) = default;
};

spec::Fields fields_of(VsockConfig& vsock);
// "PATH[,cid=N]" or "path=PATH[,cid=N]"; "cid=N" for a device that nobody answers at.
Result<VsockConfig> parse_vsock_config(std::string_view text);

}  // namespace vmm::virtio
