// The options of run, create and exec, as what they ask for.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/engine/cli/words.h"
#include "src/engine/runtime/spec.h"

namespace vmm::engine::cli {

// All that the person said of the container itself; without the image's own. Error: Docker's
// sentence, where there is one.
Result<ContainerSpec> spec_of(const Words& words);

// Of a container that goes on from a snapshot of one that was made by `saved`. Error: also what
// that says, and nobody else.
Result<ContainerSpec> spec_from(const ContainerSpec& saved, const Words& words);

// The variables of --env-file and --env; a name alone takes this process's value, if it has one.
Result<std::vector<std::string>> environment_of(const Words& words);

// "512m", "1.5g", "64": bytes, with powers of 1024, as Docker takes them.
Result<std::uint64_t> parse_bytes(std::string_view text);

// "80", "8080:80", "127.0.0.1:8080:80/udp", "8000-8002:80-82", "[::1]:80:80".
Result<std::vector<PublishedPort>> parse_publish(std::string_view text);
std::string to_text(const PublishedPort& port);  // "0.0.0.0:8080->80/tcp"

}  // namespace vmm::engine::cli
