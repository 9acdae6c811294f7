// start, attach, stop, restart, kill, wait, rename and rm.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/run.h"
#include "src/engine/cli/supervisor_client.h"
#include "src/engine/runtime/removal.h"
#include "src/engine/runtime/supervisor.h"

namespace vmm::engine::cli {
namespace {

constexpr int kForEver = -1;
// Beyond the time that a process has to end: for its machine, and then for its supervisor.
constexpr int kMachinePatience = 60'000;  // milliseconds

Result<Container> find_container(const std::string& name) {
  auto store = TRY(open_store());
  return Containers(store).find(name);
}

Result<std::string> directory_of(const Container& container) {
  return fmt::format("{}/containers/{}", TRY(default_root()), container.id);
}

// For each of the names; what fails is said, and the others go on.
Result<int> for_each(const Words& words, auto act) {
  bool failed = false;
  for (const auto& name : words.names()) {
    const Result<void> done = act(name);
    if (!done) print_error(done.error().message());
    failed |= !done;
  }
  return failed ? 1 : 0;
}

Result<void> not_running(const Container& container) {
  return fail("container {} is not running", container.id);
}

Result<void> stop_container(const Container& container, const Words& words) {
  if (!container.is_running()) return {};
  const auto signal = words.has("signal") ? TRY(parse_signal(words.text("signal")))
                                          : stop_signal_of(container.spec);
  auto text = words.has("timeout") ? words.text("timeout") : words.text("time");
  std::optional<std::uint32_t> seconds = container.spec.stop_timeout.value_or(kStopSeconds);
  if (text == "-1") {
    seconds.reset();
  } else if (!text.empty()) {
    seconds = static_cast<std::uint32_t>(TRY(parse_number(text, 0, 1u << 20, "timeout")));
  }
  const auto directory = TRY(directory_of(container));
  auto socket = connect_to_supervisor(directory);
  if (!socket) return {};  // it has ended meanwhile
  const int patience = seconds ? static_cast<int>(*seconds) * 1000 + kMachinePatience : kForEver;
  const wire::Stop request{static_cast<std::uint8_t>(seconds == 0u ? SIGKILL : signal), seconds};
  if (TRY(ask(std::move(*socket), request, patience))) return {};
  return end_supervisor(directory);
}

}  // namespace

Result<void> start_in_background(const Container& container) {
  if (container.is_running()) return {};
  auto socket = TRY(start_supervisor(TRY(default_root()), container.id));
  const auto outcome = TRY(wait_for_start(std::move(socket)));
  if (outcome.kind == Outcome::Kind::lost) {
    return fail("the supervisor of the container was killed");
  }
  if (outcome.kind != Outcome::Kind::failed) return {};
  // Another command was faster: its start is the one that counts.
  if (outcome.text.ends_with(kAlreadyRunning)) return {};
  return fail("{}", outcome.text);
}

Result<int> start(const Words& words) {
  const auto& names = words.names();
  if (!words.has("attach") && !words.has("interactive")) {
    return for_each(words, [](const std::string& name) -> Result<void> {
      TRY(start_in_background(TRY(find_container(name))));
      print(name + "\n");
      return {};
    });
  }
  if (names.size() > 1) return fail("you cannot start and attach multiple containers at once");
  const auto container = TRY(find_container(names[0]));
  const auto keys = TRY(DetachKeys::parse(words.text("detach-keys")));
  const bool input = words.has("interactive") && container.spec.open_input;
  TRY(Foreground::check_terminal(input, container.spec.tty));
  auto socket = container.is_running() ? TRY(connect_to_supervisor(TRY(directory_of(container))))
                                       : TRY(start_supervisor(TRY(default_root()), container.id));
  const auto outcome =
      TRY(stay_attached(std::move(socket), {{input, true, true}, container.spec.tty, true, keys}));
  return end_of(container, outcome, "start");
}

Result<int> attach(const Words& words) {
  const auto container = TRY(find_container(words.names()[0]));
  if (container.state == ContainerState::paused) {
    return fail("cannot attach to a paused container, unpause it first");
  }
  if (!container.is_running()) return fail("cannot attach to a stopped container, start it first");
  const auto keys = TRY(DetachKeys::parse(words.text("detach-keys")));
  const bool input = container.spec.open_input && !words.has("no-stdin");
  TRY(Foreground::check_terminal(input, container.spec.tty));
  const auto outcome = TRY(
      stay_attached(TRY(connect_to_supervisor(TRY(directory_of(container)))),
                    {{input, true, true}, container.spec.tty, !words.is_off("sig-proxy"), keys}));
  return end_of(container, outcome, "attach");
}

Result<int> stop(const Words& words) {
  return for_each(words, [&](const std::string& name) -> Result<void> {
    TRY(stop_container(TRY(find_container(name)), words));
    print(name + "\n");
    return {};
  });
}

Result<int> restart(const Words& words) {
  return for_each(words, [&](const std::string& name) -> Result<void> {
    TRY(stop_container(TRY(find_container(name)), words));
    TRY(start_in_background(TRY(find_container(name))));
    print(name + "\n");
    return {};
  });
}

Result<int> kill_containers(const Words& words) {
  const auto number = words.has("signal") ? TRY(parse_signal(words.text("signal"))) : SIGKILL;
  return for_each(words, [&](const std::string& name) -> Result<void> {
    const auto container = TRY(find_container(name));
    if (!container.is_running()) {
      return fail("cannot kill container: {}: container {} is not running", name, container.id);
    }
    const auto directory = TRY(directory_of(container));
    auto socket = connect_to_supervisor(directory);
    if (!socket) return not_running(container);
    const wire::Signal request{static_cast<std::uint8_t>(number)};
    if (number != SIGKILL) {
      const auto bytes = protocol::agent::encode(request);
      TRY(write_all(socket->get(), std::as_bytes(std::span(bytes))));
    } else if (!TRY(ask(std::move(*socket), request, kMachinePatience))) {
      TRY(end_supervisor(directory));
    }
    print(name + "\n");
    return {};
  });
}

Result<int> wait_for_containers(const Words& words) {
  return for_each(words, [&](const std::string& name) -> Result<void> {
    auto container = TRY(find_container(name));
    if (container.is_running()) {
      auto socket = connect_to_supervisor(TRY(directory_of(container)));
      if (socket) {
        const auto outcome = TRY(wait_for_exit(std::move(*socket), kForEver));
        if (outcome && outcome->kind == Outcome::Kind::exited) {
          print(fmt::format("{}\n", outcome->code));
          return {};
        }
      }
      container = TRY(find_container(container.id));
    }
    print(fmt::format("{}\n", container.exit_code));
    return {};
  });
}

Result<int> rename_container(const Words& words) {
  auto store = TRY(open_store());
  Containers containers(store);
  TRY(containers.rename(TRY(containers.find(words.names()[0])), words.names()[1]));
  return 0;
}

Result<int> remove_containers(const Words& words) {
  const auto force = words.has("force") ? Force::yes : Force::no;
  return for_each(words, [&](const std::string& name) -> Result<void> {
    const auto removed = [&]() -> Result<void> {
      const auto container = TRY(find_container(name));
      return remove_container(TRY(default_root()), container, force);
    }();
    if (!removed &&
        !(force == Force::yes && removed.error().message().starts_with("No such container"))) {
      return removed;
    }
    if (removed) print(name + "\n");
    return {};
  });
}

}  // namespace vmm::engine::cli
