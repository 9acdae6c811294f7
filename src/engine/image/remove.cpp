#include "src/engine/image/remove.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

namespace vmm::engine {
namespace {

// Of each layer with all below it (OCI image-spec, config.md), the lowest first.
std::vector<Digest> chain_ids(const Image& image) {
  std::vector<Digest> chain;
  for (const auto& layer : image.layers) {
    chain.push_back(chain.empty() ? layer.diff_id
                                  : Digest::of(chain.back().text() + " " + layer.diff_id.text()));
  }
  return chain;
}

struct User {
  std::string what;  // "running container 0123456789ab"
  bool running = false;
};

// A container or a snapshot that has this image, a running container first.
Result<std::optional<User>> user_of(Store& store, const Digest& image) {
  auto row = TRY(store.database().prepare(
      "SELECT CASE state WHEN 'running' THEN 2 WHEN 'paused' THEN 2 ELSE 1 END AS runs, "
      "substr(id, 1, 12) FROM container WHERE image = ?1 UNION ALL SELECT 0, CASE name WHEN '' "
      "THEN substr(id, 1, 12) ELSE name END FROM snapshot WHERE image = ?1 ORDER BY 1 DESC "
      "LIMIT 1"));
  row.bind(1, image.text());
  if (!TRY(row.step())) return std::optional<User>();
  constexpr std::array kKinds = {"snapshot", "stopped container", "running container"};
  const auto kind = static_cast<std::size_t>(row.number(0));
  return std::optional(User{fmt::format("{} {}", kKinds.at(kind), row.text(1)), kind == 2});
}

Result<void> delete_image(Store& store, const Image& image, Removal& removal) {
  if (TRY(user_of(store, image.id))) return {};
  Catalog catalog(store);
  TRY(catalog.remove(image.id));
  std::set<Digest> left;
  for (const auto& other : TRY(catalog.list()))
    for (auto& id : chain_ids(other)) left.insert(std::move(id));
  removal.deleted.push_back(image.id);
  auto chain = chain_ids(image);
  std::ranges::reverse(chain);
  std::ranges::copy_if(chain, std::back_inserter(removal.deleted),
                       [&left](const Digest& id) { return !left.contains(id); });
  return {};
}

// Without names it stays as long as containers have it, as their disks are made of it.
Result<void> check_unused(Store& store, const Image& image, std::string_view name, Force force) {
  const auto user = TRY(user_of(store, image.id));
  if (!user || (force == Force::yes && !user->running)) return {};
  return fail("conflict: unable to {} {} ({} be forced) - image is being used by {}",
              name.empty() ? "delete" : "remove repository reference",
              name.empty() ? image.id.short_hex() : fmt::format("\"{}\"", name),
              user->running ? "cannot" : "must", user->what);
}

bool is_one_repository(const std::vector<TagName>& tags,
                       const std::vector<RepositoryDigest>& digests) {
  std::set<std::string> repositories;
  for (const auto& tag : tags) repositories.insert(tag.repository);
  for (const auto& digest : digests) repositories.insert(digest.repository);
  return tags.size() <= 1 && repositories.size() <= 1;
}

// One that is in use loses its names only.
Result<Removal> remove_with_all_names(Store& store, const Image& image) {
  Catalog catalog(store);
  Removal removal;
  for (const auto& tag : TRY(catalog.tags(image.id))) {
    TRY(catalog.untag(tag));
    removal.untagged.push_back(tag.familiar());
  }
  for (const auto& name : TRY(catalog.digests(image.id))) {
    TRY(catalog.remove_digest(name));
    removal.untagged.push_back(name.familiar());
  }
  TRY(delete_image(store, image, removal));
  return removal;
}

Result<Removal> remove_named(Store& store, const std::string& name, Force force) {
  Catalog catalog(store);
  const auto image = TRY(catalog.find(name));
  const auto reference = parse_reference(name);
  const auto named = reference ? TRY(catalog.by_reference(*reference)) : std::nullopt;
  if (!named) {
    if (force == Force::no &&
        !is_one_repository(TRY(catalog.tags(image.id)), TRY(catalog.digests(image.id)))) {
      return fail(
          "conflict: unable to delete {} (must be forced) - image is referenced in multiple "
          "repositories",
          image.id.short_hex());
    }
    TRY(check_unused(store, image, "", force));
    return remove_with_all_names(store, image);
  }
  if (TRY(catalog.tags(image.id)).size() + TRY(catalog.digests(image.id)).size() <= 1) {
    TRY(check_unused(store, image, name, force));
  }
  Removal removal;
  const auto repository = reference->repository();
  if (reference->digest) {
    TRY(catalog.remove_digest({repository, *reference->digest}));
    removal.untagged.push_back(familiar_repository(repository) + "@" + reference->digest->text());
  } else {
    const TagName tag{repository, reference->with_default_tag().tag, 0};
    TRY(catalog.untag(tag));
    removal.untagged.push_back(tag.familiar());
  }
  const auto tags = TRY(catalog.tags(image.id));
  // A repository's digests mean nothing to a person who has taken its last tag.
  if (std::ranges::find(tags, repository, &TagName::repository) == tags.end()) {
    for (const auto& digest : TRY(catalog.digests(image.id))) {
      if (digest.repository != repository) continue;
      TRY(catalog.remove_digest(digest));
      removal.untagged.push_back(digest.familiar());
    }
  }
  if (tags.empty() && TRY(catalog.digests(image.id)).empty()) {
    TRY(delete_image(store, image, removal));
  }
  return removal;
}

}  // namespace

Result<bool> is_in_use(Store& store, const Digest& image) {
  return TRY(user_of(store, image)).has_value();
}

// In one transaction: no container is made of an image between the look and the removal.
Result<std::optional<Removal>> remove_unused(Store& store, const Image& image, Unused which) {
  Transaction change(store.database());
  TRY(change.begin());
  Catalog catalog(store);
  const bool is_kept = which == Unused::without_tags && !TRY(catalog.tags(image.id)).empty();
  if (is_kept || TRY(is_in_use(store, image.id)) || !TRY(catalog.by_id(image.id))) {
    return std::nullopt;
  }
  auto removal = TRY(remove_with_all_names(store, image));
  TRY(change.commit());
  return removal;
}

Result<Removal> remove_image(Store& store, const std::string& name, Force force) {
  Transaction change(store.database());
  TRY(change.begin());
  auto removal = TRY(remove_named(store, name, force));
  TRY(change.commit());
  return removal;
}

}  // namespace vmm::engine
