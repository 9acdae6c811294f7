#include "devices/virtio/vsock/config.h"

#include "src/base/unix_socket.h"
#include "src/spec/items.h"

namespace vmm::virtio {

spec::Fields fields_of(VsockConfig& vsock) {
  spec::Fields fields("vsock");
  fields.add(spec::host({"path", "path=PATH", "", spec::Lead::bare}), spec::text(vsock.path));
  fields.add({"cid", "cid=N", ""}, spec::number(vsock.cid, 3, 0xfffffffe));
  fields.check_with([&vsock]() -> Result<void> {
    // The longest port number follows the path.
    constexpr auto kLongest = UnixAddress::kMaxName + 1 - sizeof "_4294967295";
    const auto name = vsock.path.substr(vsock.path.rfind('/') + 1);
    if (name.size() <= kLongest) return {};
    return fail("invalid path '{}': its last name has {} bytes, expected at most {}", vsock.path,
                name.size(), kLongest);
  });
  return fields;
}

Result<VsockConfig> parse_vsock_config(std::string_view words) {
  return spec::from_words<VsockConfig>(words);
}

}  // namespace vmm::virtio
