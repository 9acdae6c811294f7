// Catalog: the images of a store and their names.
//
// An image is known by its id, the digest of its configuration. Tags and repository digests name
// images; an image without a tag is dangling.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/image/reference.h"
#include "src/engine/store/store.h"

namespace vmm::engine {

struct ImageLayer {
  Digest diff_id;
  Digest blob;
  std::uint64_t size = 0;  // bytes of its files
};

struct Image {
  Digest id;
  Digest manifest;
  std::int64_t created = 0;  // seconds since 1970
  std::string os, architecture;
  std::vector<ImageLayer> layers;  // the lowest first

  std::uint64_t size() const;
};

struct TagName {
  std::string repository, tag;
  std::int64_t updated = 0;
  std::string familiar() const { return familiar_repository(repository) + ":" + tag; }
};

struct RepositoryDigest {
  std::string repository;
  Digest digest;
  std::string familiar() const { return familiar_repository(repository) + "@" + digest.text(); }
};

class Catalog {
 public:
  explicit Catalog(Store& store) : store_(store), database_(store.database()) {}

  // The contents are published already. In one transaction with the names; an image that is there
  // keeps its own names besides. `names` have tag or digest, or both.
  Result<void> add(const Image& image, const std::vector<Reference>& names);

  Result<std::vector<Image>> list();  // the newest first
  Result<std::optional<Image>> by_id(const Digest& id);
  // By tag, digest, or id or the beginning of it that only one image has.
  // Error: "No such image: NAME".
  Result<Image> find(std::string_view name);
  Result<std::optional<Image>> by_reference(const Reference& reference);
  Result<std::vector<TagName>> tags(const Digest& id);
  Result<std::vector<TagName>> tags_of(std::string_view repository);
  Result<std::vector<RepositoryDigest>> digests(const Digest& id);
  // The size of a layer that is there: its EROFS image need not be made again.
  Result<std::optional<std::uint64_t>> layer_size(const Digest& diff_id);

  Result<void> tag(const Reference& reference, std::string_view image);  // as find() takes it
  Result<void> untag(const TagName& name);
  Result<void> remove_digest(const RepositoryDigest& name);
  Result<void> remove(const Digest& id);  // with all its names

 private:
  Result<void> write_names(const Digest& id, const std::vector<Reference>& names);
  Result<std::vector<ImageLayer>> layers_of(const Digest& id);
  Result<std::vector<Image>> select(std::string_view condition, std::string_view value);

  Store& store_;
  Database& database_;
};

}  // namespace vmm::engine
