// snapshot create, ls and rm, and fork: containers as starting points of others.
#include <unistd.h>

#include "src/base/file_time.h"
#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/interruption.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/run.h"
#include "src/engine/cli/run_options.h"
#include "src/engine/cli/units.h"
#include "src/engine/runtime/container_snapshot.h"
#include "src/engine/runtime/names.h"
#include "src/engine/runtime/removal.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kMostCopies = 1000;

// What only one copy can have.
Result<void> check_for_many(const Words& words) {
  if (words.has("name") && !words.text("name").contains(kNumber)) {
    return fail("--name {}: expected {} in it, as each copy has a name of its own",
                words.text("name"), kNumber);
  }
  for (const auto& text : words.list("publish")) {
    if (text.contains(kNumber)) continue;
    for (const auto& port : TRY(parse_publish(text))) {
      if (port.host_port == 0) continue;
      return fail("--publish {}: expected {} in it, as each copy has a port of its own", text,
                  kNumber);
    }
  }
  return {};
}

}  // namespace

Result<int> snapshot_create(const Words& words) {
  auto store = TRY(open_store());
  const auto container = TRY(Containers(store).find(words.names()[0]));
  const auto& name = words.names()[1];
  Interruption interruption;  // cancels the machine's work as well, and nothing is left
  auto made = ContainerSnapshots(store).create(container, name, interruption);
  interruption.finish(made.has_value(), fmt::format("snapshot '{}' was not created", name));
  TRY(std::move(made));
  print(name + "\n");
  return 0;
}

Result<int> snapshot_list(const Words& words) {
  auto store = TRY(open_store());
  ContainerSnapshots snapshots(store);
  std::vector<Json> rows;
  for (const auto& snapshot : TRY(snapshots.list())) {
    const auto created = snapshot.created / kNanosecondsPerSecond;
    rows.push_back(
        Json{{"Container", snapshot.container_name},
             {"CreatedAt", local_time(created)},
             {"CreatedSince", human_age(created, now())},
             {"ID", words.has("no-trunc") ? snapshot.id : snapshot.id.substr(0, kShortId)},
             {"Image", snapshot.image_name},
             {"Name", snapshot.name},
             {"Size", human_size(disk_usage(snapshots.directory(snapshot.id)))}});
  }
  RowFormat format;
  format.format = words.text("format");
  format.table = "{{.Name}}\t{{.ID}}\t{{.Image}}\t{{.Container}}\t{{.CreatedSince}}\t{{.Size}}";
  format.headers = {{"Container", "CONTAINER"},
                    {"CreatedAt", "CREATED AT"},
                    {"CreatedSince", "CREATED"},
                    {"ID", "SNAPSHOT ID"},
                    {"Image", "IMAGE"},
                    {"Name", "NAME"},
                    {"Size", "SIZE"}};
  if (words.has("quiet") && format.format.empty()) format.format = "{{.Name}}";
  print(TRY(format_rows(format, rows)));
  return 0;
}

Result<int> snapshot_remove(const Words& words) {
  auto store = TRY(open_store());
  ContainerSnapshots snapshots(store);
  bool failed = false;
  for (const auto& name : words.names()) {
    const auto removed = [&]() -> Result<void> {
      return snapshots.remove(TRY(snapshots.find(name)));
    }();
    if (removed) {
      print(name + "\n");
    } else if (::access(name.c_str(), F_OK) == 0) {
      print_error(removed.error().message() + ", but there is the file './" + name + "'");
    } else {
      print_error(removed.error().message());
    }
    failed |= !removed;
  }
  return failed ? 1 : 0;
}

Result<int> fork_container(const Words& words) {
  const auto count =
      words.has("number") ? TRY(parse_number(words.text("number"), 1, kMostCopies, "number")) : 1;
  if (count > 1) TRY(check_for_many(words));
  auto store = TRY(open_store());
  const auto container = TRY(Containers(store).find(words.names()[0]));
  ContainerSnapshots snapshots(store);
  Interruption interruption;
  auto created = snapshots.create(container, "", interruption);
  if (created && Interruption::has_come()) {  // too late to cancel that
    created->lock.reset();
    (void)snapshots.release(created->snapshot.id);
    created = fail("cancelled");
  }
  interruption.finish(created.has_value(),
                      fmt::format("no copy of container '{}' was started", container.name));
  auto made = TRY(std::move(created));
  const auto forked = [&]() -> Result<void> {
    for (std::uint64_t number = 1; number <= count; ++number) {
      const auto mine = words.with(kNumber, fmt::format("{}", number)).with_flag("detach");
      const auto copy = TRY(make_from_snapshot(store, made.snapshot, mine));
      if (const auto started = start_in_background(copy); !started) {
        (void)remove_container(store.root(), copy, Force::yes);  // the error is told
        return started;
      }
      print(copy.id + "\n");
    }
    return {};
  }();
  made.lock.reset();
  TRY(snapshots.release(made.snapshot.id));  // unless copies have it
  TRY(forked);
  return 0;
}

}  // namespace vmm::engine::cli
