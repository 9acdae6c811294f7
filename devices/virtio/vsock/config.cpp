#include "devices/virtio/vsock/config.h"

#include <sys/un.h>

#include "src/spec/items.h"

namespace vmm::virtio {

spec::Fields fields_of(VsockConfig& vsock) {
  spec::Fields fields("vsock");
  fields.add(spec::host({"path", "path=PATH", "", spec::Lead::bare}), spec::text(vsock.path));
  fields.add({"cid", "cid=N", ""}, spec::number(vsock.cid, 3, 0xfffffffe));
  fields.check_with([&vsock]() -> Result<void> {
    // The longest port number follows the path.
    constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - sizeof "_4294967295";
    if (vsock.path.size() <= kLongest) return {};
    return fail("invalid path '{}': expected at most {} bytes", vsock.path, kLongest);
  });
  return fields;
}

Result<VsockConfig> parse_vsock_config(std::string_view words) {
  return spec::from_words<VsockConfig>(words);
}

}  // namespace vmm::virtio
