// run, create, start and attach: containers come to life.
#include "src/engine/cli/run.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>

#include "src/base/new_file.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/program.h"
#include "src/engine/cli/run_options.h"
#include "src/engine/cli/supervisor_client.h"
#include "src/engine/image/manifest.h"
#include "src/engine/runtime/monitor.h"
#include "src/engine/runtime/names.h"
#include "src/engine/runtime/ports.h"
#include "src/engine/runtime/supervisor.h"

namespace vmm::engine::cli {
namespace {

constexpr int kNotStarted = 125;  // of `docker run`, for all that is not the container's

enum class Pull : std::uint8_t { missing, always, never };

Result<Pull> pull_policy(const Words& words) {
  const auto text = words.has("pull") ? words.text("pull") : "missing";
  if (text == "missing") return Pull::missing;
  if (text == "always") return Pull::always;
  if (text == "never") return Pull::never;
  return fail("invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
              text);
}

// An error without a text: the other program has said it.
Result<void> pull_missing() {
  constexpr int kNotExecuted = 127;
  const int code = TRY(run_registry_program());
  if (code == kNotExecuted) return fail("the program for registries cannot be run");
  if (code != 0) return fail("");
  return {};
}

Result<Image> image_for(Store& store, const std::string& name, const Words& words) {
  const auto policy = TRY(pull_policy(words));
  if (policy == Pull::always) TRY(pull_missing());
  Catalog catalog(store);
  auto image = catalog.find(name);
  if (image || policy != Pull::missing || !image.error().message().starts_with("No such image")) {
    return image;
  }
  TRY(pull_missing());
  return catalog.find(name);
}

Result<void> publish_exposed(ContainerSpec& spec, const Words& words) {
  if (words.has("publish-all")) {
    for (const auto& port : spec.exposed) {
      for (auto& one : TRY(parse_publish(port))) spec.ports.push_back(std::move(one));
    }
  }
  return choose_host_ports(spec.ports);
}

Result<Container> make_from_image(Store& store, const Words& words) {
  auto spec = TRY(spec_of(words));
  const auto& name = words.names()[0];
  const auto image = TRY(image_for(store, name, words));
  const auto config =
      TRY(parse_image_config(TRY(store.content().read_blob(image.id, kMaxDocument))));
  TRY(apply_image(spec, config, words.has("entrypoint")));
  TRY(publish_exposed(spec, words));
  spec.mapped_image = maps_image(spec, TRY(image_files(store.content(), image)));
  return Containers(store).create({words.text("name"), image.id, name, std::move(spec)});
}

Result<Container> make_container(const Words& words) {
  const auto cid_path = words.text("cidfile");
  if (!cid_path.empty() && ::access(cid_path.c_str(), F_OK) == 0) {
    return fail("container ID file found, make sure the other container isn't running or delete {}",
                cid_path);
  }
  auto store = TRY(open_store());
  auto made = words.has("from")
                  ? TRY(make_from_snapshot(
                        store, TRY(ContainerSnapshots(store).find(words.text("from"))), words))
                  : TRY(make_from_image(store, words));
  if (!cid_path.empty()) {
    auto file = TRY(NewFile::create(cid_path, 0644));
    TRY(write_all(file.fd(), std::as_bytes(std::span(made.id))));
    TRY(file.publish());
  }
  return made;
}

Result<DetachKeys> keys_of(const Words& words) {
  return DetachKeys::parse(words.text("detach-keys"));
}

bool passes_signals(const Words& words) { return !words.is_off("sig-proxy"); }

// What a person sees when their container did not start.
int complain(std::string_view command, const Error& error) {
  if (!error.message().empty()) print_error(error.message());
  fmt::print(stderr, "\nRun '{} {} --help' for more information\n", program(), command);
  return kNotStarted;
}

Result<int> run_made(const Words& words, const Container& container) {
  const auto& spec = container.spec;
  const auto keys = TRY(keys_of(words));
  auto socket = TRY(start_supervisor(TRY(default_root()), container.id));
  if (words.has("detach")) {
    const auto outcome = TRY(wait_for_start(std::move(socket)));
    if (outcome.kind == Outcome::Kind::failed) return start_failure("run", outcome);
    print(container.id + "\n");
    return 0;
  }
  const auto outcome = TRY(stay_attached(
      std::move(socket), {{spec.open_input, true, true}, spec.tty, passes_signals(words), keys}));
  return end_of(container, outcome, "run");
}

// Before anything is made.
Result<void> check_terminal(const Words& words) {
  if (words.has("detach")) return {};
  if (!words.has("from")) {
    return Foreground::check_terminal(words.has("interactive"), words.has("tty"));
  }
  auto store = TRY(open_store());
  ContainerSnapshots snapshots(store);
  const auto spec =
      TRY(spec_from(TRY(snapshots.spec(TRY(snapshots.find(words.text("from"))))), words));
  return Foreground::check_terminal(spec.open_input, spec.tty);
}

}  // namespace

Result<Container> make_from_snapshot(Store& store, const ContainerSnapshot& snapshot,
                                     const Words& words) {
  auto spec = TRY(spec_from(TRY(ContainerSnapshots(store).spec(snapshot)), words));
  TRY(publish_exposed(spec, words));
  return Containers(store).create({words.text("name"), snapshot.image, snapshot.image_name,
                                   std::move(spec), snapshot.id, snapshot.name});
}

int start_failure(std::string_view command, const Outcome& outcome) {
  print_error(outcome.text);
  fmt::print(stderr, "\nRun '{} {} --help' for more information\n", program(), command);
  return outcome.code;
}

Result<int> end_of(const Container& container, const Outcome& outcome, std::string_view command) {
  using Kind = Outcome::Kind;
  switch (outcome.kind) {
    case Kind::started:
    case Kind::exited:
    case Kind::detached:
      return outcome.code;
    case Kind::failed:
      return start_failure(command, outcome);
    case Kind::lost:
      break;
  }
  auto store = TRY(open_store());
  const auto now = TRY(Containers(store).by_id(container.id));
  print_error("the supervisor of the container was killed");
  return now ? now->exit_code : kLostExitCode;
}

Result<int> run_container(const Words& words) {
  TRY(keys_of(words));
  if (const auto checked = check_terminal(words); !checked) {
    if (words.has("from")) return complain("run", checked.error());
    return std::unexpected(checked.error());
  }
  const auto made = make_container(words);
  if (!made) return complain("run", made.error());
  const auto code = run_made(words, *made);
  return code ? *code : complain("run", code.error());
}

Result<int> create(const Words& words) {
  const auto made = make_container(words);
  if (!made) return complain("create", made.error());
  print(made->id + "\n");
  return 0;
}

}  // namespace vmm::engine::cli
