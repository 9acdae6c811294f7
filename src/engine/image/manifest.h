// What describes an image: manifests, indexes of them by platform, and configurations, of OCI
// (image-spec) and of Docker (manifest version 2, schema 2). Both have the same fields.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/engine/store/digest.h"

namespace vmm::engine {

// Of a manifest, index or configuration.
inline constexpr std::size_t kMaxDocument = 8u << 20;
inline constexpr std::size_t kMaxLayers = 512;

struct Platform {
  std::string os = "linux";
  std::string architecture;  // as Go names it: amd64, arm64
  std::string variant;       // "v8"; "": any

  static Platform of_host();
  // "linux/amd64", "arm64", "linux/arm64/v8"
  static Result<Platform> parse(std::string_view text);
  std::string text() const;
  bool accepts(const Platform& other) const;
};

struct Descriptor {
  std::string media_type;
  Digest digest;
  std::uint64_t size = 0;
  Platform platform;  // of an index's entry
  std::map<std::string, std::string> annotations;
};

struct Manifest {
  Descriptor config;
  std::vector<Descriptor> layers;  // the lowest first
};

struct Index {
  std::vector<Descriptor> manifests;
};

enum class DocumentKind : std::uint8_t { manifest, index };
// By its media type, or by its fields where it says none.
Result<DocumentKind> kind_of_document(std::string_view text);
Result<Manifest> parse_manifest(std::string_view text);
Result<Index> parse_index(std::string_view text);
std::string write_manifest(const Manifest& manifest);

// One line of `history`.
struct HistoryEntry {
  std::string created, created_by, comment;
  bool empty_layer = false;
};

// An image's configuration; `json` is all of it, as it came.
struct ImageConfig {
  nlohmann::json json;
  Platform platform;
  std::int64_t created = 0;      // seconds since 1970; 0: it does not say
  std::vector<Digest> diff_ids;  // the lowest first
  std::vector<HistoryEntry> history;
};

Result<ImageConfig> parse_image_config(std::string_view text);

// RFC 3339, with or without a fraction; seconds since 1970. Error: it is none.
Result<std::int64_t> parse_time(std::string_view text);
std::string format_time(std::int64_t seconds);  // 2026-11-30T00:00:00Z

}  // namespace vmm::engine
