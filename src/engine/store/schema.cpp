#include "src/engine/store/schema.h"

#include <array>

namespace vmm::engine {
namespace {

// Step i leads from version i to i + 1. Never changed once released: a new step is added.
constexpr std::array<const char*, 3> kSteps = {
    R"sql(
    CREATE TABLE layer (
      diff_id TEXT PRIMARY KEY,        -- digest of the uncompressed archive
      size INTEGER NOT NULL            -- bytes of its files
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image (
      id TEXT PRIMARY KEY,             -- digest of the configuration
      manifest TEXT NOT NULL,          -- digest of the manifest
      created INTEGER NOT NULL,        -- seconds since 1970, as the configuration says
      os TEXT NOT NULL,
      architecture TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_layer (
      image TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
      position INTEGER NOT NULL,       -- 0 is the lowest
      diff_id TEXT NOT NULL REFERENCES layer,
      blob TEXT NOT NULL,              -- digest of the archive as it came
      PRIMARY KEY (image, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tag (
      repository TEXT NOT NULL,        -- with its registry: docker.io/library/busybox
      tag TEXT NOT NULL,
      image TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
      updated INTEGER NOT NULL,        -- seconds since 1970
      PRIMARY KEY (repository, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tag_of_image ON tag (image);
    CREATE TABLE repository_digest (
      repository TEXT NOT NULL,
      digest TEXT NOT NULL,            -- of the manifest or index that the registry has
      image TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
      PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX repository_digest_of_image ON repository_digest (image);
    )sql",
    R"sql(
    CREATE TABLE container (
      id TEXT PRIMARY KEY,             -- 64 hex digits; what does not change is in its directory
      name TEXT NOT NULL UNIQUE,
      image TEXT NOT NULL REFERENCES image,
      image_name TEXT NOT NULL,        -- as the person named it
      created INTEGER NOT NULL,        -- times are nanoseconds since 1970, 0: not yet
      state TEXT NOT NULL,             -- created, running, paused, exited
      started INTEGER NOT NULL DEFAULT 0,
      finished INTEGER NOT NULL DEFAULT 0,
      exit_code INTEGER NOT NULL DEFAULT 0,
      out_of_memory INTEGER NOT NULL DEFAULT 0,
      error TEXT NOT NULL DEFAULT ''   -- why it did not start, or what ended it
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX container_of_image ON container (image);
    )sql",
    R"sql(
    CREATE TABLE snapshot (
      id TEXT PRIMARY KEY,             -- 64 hex digits; its files are in its directory
      name TEXT NOT NULL,              -- '': of a fork, goes with the last container from it
      image TEXT NOT NULL REFERENCES image,
      image_name TEXT NOT NULL,        -- as the person named it
      container_name TEXT NOT NULL,    -- of the container that it is of
      created INTEGER NOT NULL         -- nanoseconds since 1970
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX snapshot_name ON snapshot (name) WHERE name != '';
    CREATE INDEX snapshot_of_image ON snapshot (image);
    -- That the container went on from: its disk is a layer over that one's.
    ALTER TABLE container ADD COLUMN snapshot TEXT REFERENCES snapshot;
    CREATE INDEX container_of_snapshot ON container (snapshot);
    )sql",
};

Result<std::int64_t> version_of(Database& database) {
  auto row = TRY(database.prepare("PRAGMA user_version"));
  TRY(row.step());
  return row.number(0);
}

}  // namespace

Result<void> migrate(Database& database) {
  constexpr auto kVersion = static_cast<std::int64_t>(kSteps.size());
  if (TRY(version_of(database)) == kVersion) return {};
  Transaction change(database);
  TRY(change.begin());
  // Read again: another process may have been here first.
  const auto version = TRY(version_of(database));
  if (version < 0 || version > kVersion) {
    return fail("the store is of version {}: expected at most {}, it needs a later vmm", version,
                kVersion);
  }
  for (auto step = version; step < kVersion; ++step) {
    TRY(database.execute(kSteps[static_cast<std::size_t>(step)]));
  }
  TRY(database.execute(fmt::format("PRAGMA user_version = {}", kVersion)));
  return change.commit();
}

}  // namespace vmm::engine
