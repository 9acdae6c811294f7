// What the control socket asks of a session. Nothing here waits: what changes the machine is a
// task, and answered when it is done.
#include <algorithm>

#include "src/base/text.h"
#include "src/hypervisor/session/report.h"
#include "src/hypervisor/session/session.h"

namespace vmm {
namespace {

// A guest that does not answer its power button in this time is ended.
constexpr auto kStopDeadline = std::chrono::seconds(30);

// So often is looked for what no device tells by itself, while somebody listens.
constexpr auto kLookEvery = std::chrono::seconds(2);

}  // namespace

void Session::publish(const protocol::Event& event) {
  if (control_) control_->publish(event);
}

std::string Session::state() const {
  if (stopping_) return "stopping";
  return want_paused_ ? "paused" : "running";
}

std::string Session::status() const {
  if (!is_there()) return last_status_;
  return status_json(named_, *machine_, state(), std::chrono::steady_clock::now() - started_,
                     generation_ - 1);
}

void Session::serve(const protocol::Command& command, unsigned version,
                    const ControlServer::Answer& answer) {
  if (serve_always(command, answer)) return;
  if (finished_ || (!machine_ && !rebooting_)) return answer(fail("the machine is ending"));
  if (std::holds_alternative<protocol::Status>(command)) return answer(status());
  if (std::holds_alternative<protocol::Metrics>(command)) return metrics(answer);
  if (ends_saved_) {
    return answer(
        fail("the machine ends when its state is saved: until then it takes status, "
             "metrics and stop"));
  }
  serve_machine(command, version, answer);
}

bool Session::serve_always(const protocol::Command& command, const ControlServer::Answer& answer) {
  if (std::holds_alternative<protocol::Stop>(command)) {
    if (finished_ && jobs_->empty()) return false;
    answer(std::string());
    cancel_jobs();
    finish(kExitKilled, "ended through the control socket");
  } else if (std::holds_alternative<protocol::Jobs>(command)) {
    answer(protocol::to_json(jobs_->list()));
  } else if (const auto* cancel = std::get_if<protocol::Cancel>(&command)) {
    const auto cancelled = jobs_->cancel(cancel->job);
    answer(cancelled ? Result<std::string>() : std::unexpected(cancelled.error()));
  } else if (const auto* wait = std::get_if<protocol::Wait>(&command)) {
    wait->job ? jobs_->wait(*wait->job, answer) : add_waiting(waiting_, answer);
  } else if (std::holds_alternative<protocol::Events>(command)) {
    listen(answer);
  } else {
    return false;
  }
  return true;
}

void Session::serve_machine(const protocol::Command& command, unsigned version,
                            const ControlServer::Answer& answer) {
  if (const auto* request = std::get_if<protocol::Snapshot>(&command)) {
    return snapshot(*request, version, answer);
  }
  if (const auto* request = std::get_if<protocol::Balloon>(&command)) {
    return answer(set_memory_target(request->size));
  }
  if (std::holds_alternative<protocol::WorkingSet>(command)) {
    return record_working_set([answer](const Result<void>& recorded) {
      answer(recorded ? Result<std::string>(std::string()) : std::unexpected(recorded.error()));
    });
  }
  if (serve_slots(command, answer)) return;
  change(std::holds_alternative<protocol::Pause>(command),
         std::holds_alternative<protocol::PowerButton>(command), answer);
}

// ---- running or paused, the power button

void Session::change(bool paused, bool press, const ControlServer::Answer& answer) {
  want_paused_ = paused;
  want_press_ = want_press_ || press;
  // A machine that is saved, or made anew, is like that afterwards.
  if (held_ > 0 || rebooting_) return answer(std::string());
  do_what_is_wanted();
  if (tasks_->in_order() == 0) return answer(std::string());
  tasks_->in_order([] { return Result<void>(); },
                   [answer](const Result<void>&) { answer(std::string()); });
}

void Session::do_what_is_wanted() {
  if (held_ > 0 || ends_saved_ || finished_ || !is_there()) return;
  const bool press = std::exchange(want_press_, false);
  if (!press && tasks_->in_order() == 0 && machine_->paused() == want_paused_) {
    return tell_paused();
  }
  watch_for_hangs();
  tasks_->in_order(
      [this, press, paused = want_paused_]() -> Result<void> {
        paused ? machine_->pause() : machine_->resume();
        if (press) machine_->press_power_button();
        return {};
      },
      [this](const Result<void>&) { tell_paused(); });
}

void Session::tell_paused() {
  if (!is_there() || std::exchange(told_paused_, want_paused_) == want_paused_) return;
  want_paused_ ? publish(protocol::Paused{}) : publish(protocol::Resumed{});
}

// A paused guest hears nothing.
void Session::press_power_button() {
  want_paused_ = false;
  want_press_ = true;
  if (!rebooting_) do_what_is_wanted();
  loop_->add_timer(EventLoop::Clock::now() + kStopDeadline, [this] {
    finish(kExitKilled, fmt::format("the guest did not power off within {} s, it was ended",
                                    kStopDeadline.count()));
  });
}

Result<std::string> Session::set_memory_target(const std::string& size) {
  if (!is_there()) return fail("the machine starts again: ask later");
  auto* device = machine_->devices().memory_target();
  if (device == nullptr)
    return fail("the machine has no balloon: it was started without --balloon");
  TRY(device->set_target(TRY(parse_size(size))));
  return std::string();
}

// ---- snapshots

void Session::snapshot(const protocol::Snapshot& request, unsigned version,
                       const ControlServer::Answer& answer) {
  if (!jobs_->empty()) return answer(fail("a snapshot is being taken"));
  if (!changing_.empty()) return answer(fail("{} is being changed: ask later", *changing_.begin()));
  if (!is_there()) return answer(fail("the machine starts again: ask later"));
  auto& job = jobs_->begin("snapshot", {});
  ends_saved_ = request.stop;
  if (version == 1) {
    jobs_->wait(job.number, answer);
  } else {
    answer(protocol::to_json(protocol::JobResult{job.number}));
  }
  if (!pages_) return begin_save(job, request);
  // A fork sees zeroes where a page is missing, and a suspended guest should not wait for the rest.
  tasks_->beside(
      "unpack", [this, &job] { return pages_->finish(job.progress); },
      [this, &job, request](const Result<void>& unpacked) {
        if (!unpacked) return saved(job.number, request.stop, std::unexpected(unpacked.error()));
        pages_.reset();
        begin_save(job, request);
      });
}

void Session::begin_save(Jobs::Job& job, const protocol::Snapshot& request) {
  ++held_;
  watch_for_hangs();
  tasks_->in_order(
      [this, &job, request] { return saver_->begin(*machine_, request, job.progress); },
      [this, &job, stop = request.stop](const Result<void>& begun) {
        --held_;
        if (!begun) return saved(job.number, stop, std::unexpected(begun.error()));
        go_on();
        complete_save(job, stop);
      });
}

void Session::complete_save(Jobs::Job& job, bool stop) {
  const auto result = std::make_shared<std::string>();
  tasks_->beside(
      "snapshot",
      [this, &job, result]() -> Result<void> {
        *result = protocol::to_json(TRY(saver_->complete(job.progress)));
        return {};
      },
      [this, number = job.number, stop, result](const Result<void>& completed) {
        saved(number, stop,
              completed ? Result<std::string>(*result) : std::unexpected(completed.error()));
      });
}

void Session::saved(std::uint64_t job, bool stop, const Result<std::string>& result) {
  saver_->give_up();  // where it got no further
  ends_saved_ = false;
  // Before the answer: what is asked by who has it comes too late.
  if (stop && result) finish(kExitPowerOff, "its state was saved");
  jobs_->finish(job, result);
  if (stop && stopping_ && !finished_) press_power_button();
  go_on();
}

// ---- what it is asked about itself

void Session::metrics(const ControlServer::Answer& answer) {
  if (!is_there()) return answer(fail("the machine starts again: ask later"));
  add_waiting(want_metrics_, answer);
  if (want_metrics_.size() > 1) return;  // one look at the machine does for all
  const auto metrics = std::make_shared<std::string>();
  tasks_->beside(
      "metrics",
      [this, metrics]() -> Result<void> {
        *metrics = metrics_json(*machine_);
        return {};
      },
      [this, metrics](const Result<void>& told) {
        const auto answers = std::exchange(want_metrics_, {});
        for (const auto& wanted : answers) {
          wanted(told ? Result<std::string>(*metrics) : std::unexpected(told.error()));
        }
        go_on();
      });
}

void Session::listen(const ControlServer::Answer& answer) {
  control_->listen(answer);
  answer(fmt::format(R"({{"state":"{}"}})", state()));
  if (!std::exchange(observing_, true)) look_around();
}

void Session::look_around() {
  observing_ = control_->has_listeners() && !finished_;
  if (!observing_) return;
  const auto again = [this] {
    loop_->add_timer(EventLoop::Clock::now() + kLookEvery, [this] { look_around(); });
  };
  // A guest that stands still says nothing.
  if (!is_there() || held_ > 0 || want_paused_) return again();
  const auto metrics = std::make_shared<std::string>();
  tasks_->beside(
      "observer",
      [this, metrics]() -> Result<void> {
        *metrics = metrics_json(*machine_);
        return {};
      },
      [this, metrics, again](const Result<void>&) {
        for (const auto& event : observer_.look(*metrics)) publish(event);
        again();
        go_on();
      });
}

}  // namespace vmm
