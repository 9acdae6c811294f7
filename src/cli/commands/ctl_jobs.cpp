#include "src/cli/commands/ctl_jobs.h"

#include <fmt/core.h>

#include <array>
#include <cstdio>
#include <set>

#include "src/cli/commands/long_work.h"
#include "src/protocol/control_client.h"
#include "src/protocol/control_v1.h"

namespace vmm::cli {
namespace {

using protocol::ControlClient;

constexpr auto kLookEvery = std::chrono::milliseconds(100);  // whether a signal came
constexpr std::size_t kMaxPhases = 64;

// Tells a Progress what the events of a job say.
class JobMirror {
 public:
  JobMirror(std::uint64_t job, Progress& progress) : job_(job), progress_(progress) {}

  void on_event(std::string_view line) {
    const auto event = protocol::decode_event(line);
    if (!event) return;  // of a newer program
    const auto* state = std::get_if<protocol::JobProgressed>(&*event);
    static std::set<std::string> phases;  // what progress is told lasts
    if (state == nullptr || state->job != job_ || phases.size() > kMaxPhases) return;
    if (phase_ == nullptr || *phase_ != state->phase || state->done < done_) {
      phase_ = &*phases.insert(state->phase).first;
      progress_.begin(phase_->c_str(), state->total);
      done_ = 0;
    }
    // Whether it was cancelled is asked elsewhere.
    (void)progress_.advance(state->done - std::exchange(done_, state->done));
  }

 private:
  const std::uint64_t job_;
  Progress& progress_;
  const std::string* phase_ = nullptr;
  std::uint64_t done_ = 0;
};

Result<std::string> follow(ControlClient& client, std::uint64_t job, Progress& progress) {
  const auto waiting = TRY(client.ask(protocol::Wait{job}));
  JobMirror mirror(job, progress);
  bool cancelled = false;
  for (;;) {
    if (!cancelled && !progress.advance(0)) {
      cancelled = true;
      TRY(client.ask(protocol::Cancel{job}));
    }
    const auto line = TRY(client.poll_line(kLookEvery));
    if (!line) continue;
    if (protocol::is_event(*line)) {
      mirror.on_event(*line);
      continue;
    }
    auto reply = TRY(protocol::decode_reply(*line));
    if (reply.id != waiting) continue;
    if (!reply.ok) return fail("{}", reply.error);
    return std::move(reply.result);
  }
}

Result<std::string> ask_as_before(const std::string& socket, const protocol::Snapshot& request) {
  protocol::RequestV1 old{"snapshot", request.directory, {}};
  if (!request.parent.empty()) old.options["incremental"] = request.parent;
  if (request.live) old.options["live"] = "true";
  if (request.stop) old.options["stop"] = "true";
  return protocol::call(socket, old);
}

}  // namespace

Result<std::string> run_job(const std::string& socket, const protocol::Snapshot& request,
                            Progress& progress) {
  auto client = TRY(ControlClient::connect(socket));
  if (!client.call(protocol::Version{})) return ask_as_before(socket, request);
  TRY(client.call(protocol::Events{}));
  const auto job = TRY(client.call<protocol::JobResult>(request)).job;
  return follow(client, job, progress);
}

Result<std::string> run_job(const std::string& socket, const protocol::Snapshot& request,
                            const std::string& progress, const std::string& undone) {
  return run_long(progress, undone, [&](Progress& told) { return run_job(socket, request, told); });
}

Result<void> print_events(const std::string& socket) {
  auto client = TRY(ControlClient::connect(socket));
  TRY(client.call(protocol::Events{}));
  for (;;) {
    const auto line = TRY(client.next_event());
    if (std::printf("%s\n", line.c_str()) < 0 || std::fflush(stdout) != 0) {
      return fail_errno("cannot write the events");
    }
    const auto event = protocol::decode_event(line);
    if (event && std::holds_alternative<protocol::Ended>(*event)) return {};
  }
}

Result<std::string> ask_once(const std::string& socket, const protocol::Command& command) {
  auto client = TRY(ControlClient::connect(socket));
  return client.call(command);
}

Section events_section() {
  using namespace protocol;
  constexpr std::array kTexts = {
      std::pair{Started::kName, "the guest begins, or begins again: `reboots`"},
      std::pair{Paused::kName, "its vCPUs stand still"},
      std::pair{Resumed::kName, "they go on"},
      std::pair{Panic::kName, "the guest's kernel panicked: `reason`"},
      std::pair{Ended::kName, "the machine ended, the last event: `code` (as vmm's), `reason`"},
      std::pair{NetworkLost::kName, "what a network card is connected to went away: `device`"},
      std::pair{NetworkBack::kName, "and came back"},
      std::pair{GuestMemory::kName,
                "with --balloon: `target_bytes`, `actual_bytes`, `available_bytes`"},
      std::pair{JobBegan::kName, "`job`, `kind`"},
      std::pair{JobProgressed::kName, "`job`, `kind`, `phase`, `done` and `total` bytes"},
      std::pair{JobFinished::kName, "`job`, `kind`, `ok`, `error`"},
      std::pair{Missed::kName, "so many were dropped, as they were read too slowly: `count`"}};
  static_assert(kTexts.size() == std::variant_size_v<Event>);
  Section section{.title = "Events",
                  .paragraphs = {"What `events` prints, one JSON object a line: `event`, `time_ms` "
                                 "(since 1970), and"},
                  .rows = {},
                  .in = Section::In::manual};
  for (const auto& [name, text] : kTexts) section.rows.push_back({std::string(name), text});
  return section;
}

}  // namespace vmm::cli
