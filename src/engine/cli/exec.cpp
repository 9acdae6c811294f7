// exec: another process in a running container, by its machine's agent itself.
#include "src/engine/cli/commands.h"
#include "src/engine/cli/foreground.h"
#include "src/engine/cli/run_options.h"
#include "src/engine/runtime/agent_process.h"
#include "src/engine/runtime/guest_request.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;

constexpr int kFailed = 1;

struct Target {
  Container container;
  std::string directory;
};

Result<Target> find_target(const std::string& name) {
  auto store = TRY(open_store());
  Containers containers(store);
  auto container = TRY(containers.find(name));
  if (container.state == ContainerState::paused) {
    return fail("Container {} is paused, unpause the container before exec", name);
  }
  if (!container.is_running()) return fail("container {} is not running", container.id);
  auto directory = containers.directory(container.id);
  return Target{std::move(container), std::move(directory)};
}

Result<agent::Start> request_of(const Words& words, const Container& container) {
  auto request = TRY(start_request(container));
  const auto& names = words.names();
  request.container.reset();
  request.arguments.assign(names.begin() + 1, names.end());
  for (auto& variable : TRY(environment_of(words))) {
    const auto name = variable.substr(0, variable.find('=') + 1);
    std::erase_if(request.environment, [&](const auto& one) { return one.starts_with(name); });
    request.environment.push_back(std::move(variable));
  }
  if (words.has("workdir")) request.working_directory = words.text("workdir");
  if (words.has("user")) request.user = words.text("user");
  if (words.has("privileged")) request.capabilities = agent::kAllCapabilities;
  request.terminal.reset();
  if (words.has("tty")) request.terminal.emplace();
  request.input = words.has("interactive") && !words.has("tty") && !words.has("detach");
  request.lost_output = agent::LostOutput::is_dropped;
  return request;
}

class Execution {
 public:
  Execution(EventLoop& loop, const Words& words, const Target& target, DetachKeys keys)
      : detached_(words.has("detach")),
        program_(words.names()[1]),
        own_(loop,
             {.input = words.has("interactive") && !detached_,
              .tty = words.has("tty") && !detached_,
              .keys = std::move(keys)},
             {[this](std::string_view bytes) { process_.write_input(bytes); },
              [this] { process_.end_input(); }, [this] { return process_.input_pending(); },
              [this](const wire::TerminalSize& size) { process_.resize(size); },
              [this](int number) { process_.signal(number); }}),
        process_(loop, target.directory, new_process_id(),
                 {[this] { started(); }, [this](const agent::Failed& failed) { fail_with(failed); },
                  [this](wire::Stream stream, std::string_view bytes) {
                    if (!detached_) own_.output(stream, bytes);
                  },
                  [this] { own_.input_taken(); },
                  [this](const agent::Exited& exited) {
                    own_.finish(exited.signal != 0 ? 128 + exited.signal : exited.code);
                  },
                  [this] { lost(); }}) {}

  Result<void> begin(agent::Start request) {
    process_.start(std::move(request));
    return detached_ ? Result<void>() : own_.begin();
  }
  int code() const { return own_.code(); }

 private:
  void started() {
    if (detached_) own_.finish(0);
    own_.send_size();
  }
  void fail_with(const agent::Failed& failed) {
    const auto why = explain(failed, program_);
    print_error("OCI runtime exec failed: exec failed: " + why.text);
    own_.finish(why.code == 125 ? kFailed : why.code);
  }
  void lost() {
    if (told_) return;
    told_ = true;
    print_error("the container ended");
    own_.finish(137);
  }

  const bool detached_;
  const std::string program_;
  bool told_ = false;
  Foreground own_;
  AgentProcess process_;
};

}  // namespace

Result<int> exec(const Words& words) {
  const auto keys = TRY(DetachKeys::parse(words.text("detach-keys")));
  if (!words.has("detach")) {
    TRY(Foreground::check_terminal(words.has("interactive"), words.has("tty")));
  }
  const auto target = TRY(find_target(words.names()[0]));
  auto request = TRY(request_of(words, target.container));
  const auto loop = TRY(EventLoop::create());
  Execution execution(*loop, words, target, keys);
  TRY(execution.begin(std::move(request)));
  loop->run();
  return execution.code();
}

}  // namespace vmm::engine::cli
