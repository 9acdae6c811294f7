#include "src/engine/image/catalog.h"

#include <chrono>

namespace vmm::engine {
namespace {

std::int64_t now() {
  using namespace std::chrono;
  return duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
}

// What the database has was a digest when it was written.
Result<Digest> digest_of_column(const Statement& row, int column) {
  return Digest::parse(row.text(column));
}

bool is_hex(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::unexpected<Error> no_such_image(std::string_view name) {
  return fail("No such image: {}", name);
}

}  // namespace

std::uint64_t Image::size() const {
  std::uint64_t sum = 0;
  for (const auto& layer : layers) sum += layer.size;
  return sum;
}

Result<void> Catalog::add(const Image& image, const std::vector<Reference>& names) {
  Transaction change(database_);
  TRY(change.begin());
  TRY(TRY(database_.prepare("INSERT INTO image (id, manifest, created, os, architecture) "
                            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"))
          .bind(1, image.id.text())
          .bind(2, image.manifest.text())
          .bind(3, image.created)
          .bind(4, image.os)
          .bind(5, image.architecture)
          .run());
  auto count = TRY(database_.prepare("SELECT changes()"));
  TRY(count.step());
  if (count.number(0) > 0) {
    std::int64_t position = 0;
    for (const auto& layer : image.layers) {
      TRY(TRY(database_.prepare("INSERT INTO layer (diff_id, size) VALUES (?, ?) "
                                "ON CONFLICT DO NOTHING"))
              .bind(1, layer.diff_id.text())
              .bind(2, static_cast<std::int64_t>(layer.size))
              .run());
      TRY(TRY(database_.prepare("INSERT INTO image_layer (image, position, diff_id, blob) "
                                "VALUES (?, ?, ?, ?)"))
              .bind(1, image.id.text())
              .bind(2, position++)
              .bind(3, layer.diff_id.text())
              .bind(4, layer.blob.text())
              .run());
    }
  }
  TRY(write_names(image.id, names));
  return change.commit();
}

Result<void> Catalog::write_names(const Digest& id, const std::vector<Reference>& names) {
  for (const auto& name : names) {
    if (!name.tag.empty()) {
      TRY(TRY(database_.prepare("INSERT OR REPLACE INTO tag (repository, tag, image, updated) "
                                "VALUES (?, ?, ?, ?)"))
              .bind(1, name.repository())
              .bind(2, name.tag)
              .bind(3, id.text())
              .bind(4, now())
              .run());
    }
    if (name.digest) {
      TRY(TRY(database_.prepare("INSERT OR REPLACE INTO repository_digest "
                                "(repository, digest, image) VALUES (?, ?, ?)"))
              .bind(1, name.repository())
              .bind(2, name.digest->text())
              .bind(3, id.text())
              .run());
    }
  }
  return {};
}

Result<std::vector<ImageLayer>> Catalog::layers_of(const Digest& id) {
  std::vector<ImageLayer> layers;
  auto rows = TRY(database_.prepare(
      "SELECT diff_id, blob, size FROM image_layer JOIN layer USING (diff_id) WHERE image = ? "
      "ORDER BY position"));
  rows.bind(1, id.text());
  while (TRY(rows.step())) {
    layers.push_back({TRY(digest_of_column(rows, 0)), TRY(digest_of_column(rows, 1)),
                      static_cast<std::uint64_t>(rows.number(2))});
  }
  return layers;
}

Result<std::vector<Image>> Catalog::select(std::string_view condition, std::string_view value) {
  std::vector<Image> images;
  auto rows = TRY(database_.prepare(
      fmt::format("SELECT id, manifest, created, os, architecture FROM image WHERE {} "
                  "ORDER BY created DESC, id",
                  condition)));
  rows.bind(1, value);
  while (TRY(rows.step())) {
    Image image{TRY(digest_of_column(rows, 0)),
                TRY(digest_of_column(rows, 1)),
                rows.number(2),
                rows.text(3),
                rows.text(4),
                {}};
    image.layers = TRY(layers_of(image.id));
    images.push_back(std::move(image));
  }
  return images;
}

Result<std::vector<Image>> Catalog::list() { return select("?1 = ''", ""); }

Result<std::optional<Image>> Catalog::by_id(const Digest& id) {
  auto images = TRY(select("id = ?", id.text()));
  if (images.empty()) return std::nullopt;
  return std::move(images[0]);
}

Result<std::optional<Image>> Catalog::by_reference(const Reference& reference) {
  const auto named = reference.with_default_tag();
  auto row = TRY(database_.prepare(
      named.digest ? "SELECT image FROM repository_digest WHERE repository = ? AND digest = ?"
                   : "SELECT image FROM tag WHERE repository = ? AND tag = ?"));
  row.bind(1, named.repository()).bind(2, named.digest ? named.digest->text() : named.tag);
  if (!TRY(row.step())) return std::nullopt;
  return by_id(TRY(digest_of_column(row, 0)));
}

Result<Image> Catalog::find(std::string_view name) {
  constexpr std::string_view kAlgorithm = "sha256:";
  const bool is_digest = name.starts_with(kAlgorithm);
  const auto hex = name.substr(is_digest ? kAlgorithm.size() : 0);
  const auto reference = parse_reference(name);
  if (!is_digest && reference) {
    if (auto image = TRY(by_reference(*reference))) return std::move(*image);
  }
  if (is_hex(hex) && hex.size() <= 64) {
    auto images = TRY(select("id GLOB ? || '*'", fmt::format("{}{}", kAlgorithm, hex)));
    if (images.size() == 1) return std::move(images[0]);
  }
  if (is_digest || is_hex(name) || !reference) {
    if (is_digest || hex.size() == 64) return no_such_image(fmt::format("{}{}", kAlgorithm, hex));
    if (!reference) return std::unexpected(reference.error());
  }
  return no_such_image(reference->with_default_tag().familiar());
}

Result<std::vector<TagName>> Catalog::tags(const Digest& id) {
  std::vector<TagName> names;
  auto rows = TRY(database_.prepare(
      "SELECT repository, tag, updated FROM tag WHERE image = ? ORDER BY repository, tag"));
  rows.bind(1, id.text());
  while (TRY(rows.step())) names.push_back({rows.text(0), rows.text(1), rows.number(2)});
  return names;
}

Result<std::vector<TagName>> Catalog::tags_of(std::string_view repository) {
  std::vector<TagName> names;
  auto rows = TRY(database_.prepare(
      "SELECT repository, tag, updated FROM tag WHERE repository = ? ORDER BY tag"));
  rows.bind(1, repository);
  while (TRY(rows.step())) names.push_back({rows.text(0), rows.text(1), rows.number(2)});
  return names;
}

Result<std::vector<RepositoryDigest>> Catalog::digests(const Digest& id) {
  std::vector<RepositoryDigest> names;
  auto rows =
      TRY(database_.prepare("SELECT repository, digest FROM repository_digest "
                            "WHERE image = ? ORDER BY repository, digest"));
  rows.bind(1, id.text());
  while (TRY(rows.step())) names.push_back({rows.text(0), TRY(digest_of_column(rows, 1))});
  return names;
}

Result<std::optional<std::uint64_t>> Catalog::layer_size(const Digest& diff_id) {
  auto row = TRY(database_.prepare("SELECT size FROM layer WHERE diff_id = ?"));
  row.bind(1, diff_id.text());
  if (!TRY(row.step()) || !store_.content().has(Content::layer, diff_id)) return std::nullopt;
  return static_cast<std::uint64_t>(row.number(0));
}

Result<void> Catalog::tag(const Reference& reference, std::string_view image) {
  Transaction change(database_);
  TRY(change.begin());
  TRY(write_names(TRY(find(image)).id, {reference.with_default_tag()}));
  return change.commit();
}

Result<void> Catalog::untag(const TagName& name) {
  return TRY(database_.prepare("DELETE FROM tag WHERE repository = ? AND tag = ?"))
      .bind(1, name.repository)
      .bind(2, name.tag)
      .run();
}

Result<void> Catalog::remove_digest(const RepositoryDigest& name) {
  return TRY(database_.prepare("DELETE FROM repository_digest WHERE repository = ? AND digest = ?"))
      .bind(1, name.repository)
      .bind(2, name.digest.text())
      .run();
}

Result<void> Catalog::remove(const Digest& id) {
  return TRY(database_.prepare("DELETE FROM image WHERE id = ?")).bind(1, id.text()).run();
}

}  // namespace vmm::engine
