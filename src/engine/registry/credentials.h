// Who a person is to a registry, as `docker login` and `podman login` leave it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::engine {

struct Credentials {
  std::string user, password;
};

// From $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json, $DOCKER_CONFIG/config.json or
// ~/.docker/config.json: the first that knows the registry ("docker.io", "localhost:5000"), or
// names a helper program that does (docker-credential-NAME, by credHelpers and credsStore).
// Error: a file that is damaged, a helper that fails.
Result<std::optional<Credentials>> find_credentials(std::string_view registry);

// The file in which `login` keeps what it is told. Error: neither $DOCKER_CONFIG nor $HOME is set.
Result<std::string> credentials_file();
enum class Kept : std::uint8_t { in_file, by_helper };
// In that file, unencrypted and for its owner alone, or by the helper that it names. What else the
// file says stays.
Result<Kept> keep_credentials(std::string_view registry, const Credentials& credentials);
// Error: as above. False: nobody was logged in.
Result<bool> forget_credentials(std::string_view registry);

std::string encode_base64(std::string_view text);
Result<std::string> decode_base64(std::string_view text);

}  // namespace vmm::engine
