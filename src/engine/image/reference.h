// Reference: how an image is named, as the distribution project's grammar has it.
//
//   busybox           docker.io/library/busybox, tag latest
//   ghcr.io/me/app:2  its registry, path and tag
//   app@sha256:...    a digest: what is meant whatever tags say
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/engine/store/digest.h"

namespace vmm::engine {

inline constexpr std::string_view kDefaultTag = "latest";

struct Reference {
  std::string registry;  // "docker.io"
  std::string path;      // "library/busybox"
  std::string tag;       // "": none was said
  std::optional<Digest> digest;

  std::string repository() const { return registry + "/" + path; }
  // The tag, or `latest` when neither tag nor digest was said.
  Reference with_default_tag() const;
  // As people write it: without docker.io and library.
  std::string familiar() const;
};

// Error: in the words of Docker, "invalid reference format", and what about it.
Result<Reference> parse_reference(std::string_view text);
// "docker.io/library/busybox" -> "busybox"
std::string familiar_repository(std::string_view repository);

}  // namespace vmm::engine
