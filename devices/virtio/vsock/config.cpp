#include "devices/virtio/vsock/config.h"

#include <sys/un.h>

#include <array>

#include "src/base/text.h"

namespace vmm::virtio {

Result<VsockConfig> parse_vsock_config(std::string_view text) {
  constexpr std::array<std::string_view, 2> kKeys = {"path", "cid"};
  VsockConfig config;
  for (const auto part : split(text, ',')) {
    const auto equals = part.find('=');
    const auto key = part.substr(0, equals);
    const auto value =
        equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
    if (key == "cid") {
      config.cid = static_cast<std::uint32_t>(TRY(parse_number(value, 3, 0xfffffffe, "cid")));
    } else if (key == "path") {
      config.path = value;
    } else if (equals == std::string_view::npos && config.path.empty()) {
      config.path = part;
    } else {
      return fail("unknown vsock key '{}'{}: PATH[,cid=N] is right", key, did_you_mean(key, kKeys));
    }
  }
  // The longest port number follows the path.
  constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - 1 - sizeof "_4294967295" + 1;
  if (config.path.empty() || config.path.size() > kLongest) {
    return fail("vsock path '{}' is not right: 1 to {} bytes are", config.path, kLongest);
  }
  return config;
}

}  // namespace vmm::virtio
