#include "src/hypervisor/session/jobs.h"

#include <algorithm>
#include <utility>

namespace vmm {
namespace {

constexpr auto kTellEvery = std::chrono::milliseconds(200);

}  // namespace

void add_waiting(std::vector<ControlServer::Answer>& waiting, const ControlServer::Answer& answer) {
  std::erase_if(waiting, [](const auto& other) { return !other.is_wanted(); });
  waiting.push_back(answer);
}

Jobs::~Jobs() {
  if (timer_ != 0) loop_.cancel_timer(timer_);
}

Jobs::Job& Jobs::begin(std::string kind, std::function<void()> on_cancel) {
  auto& job = *jobs_.emplace_back(std::make_unique<Job>());
  job.number = ++last_;
  job.kind = std::move(kind);
  job.on_cancel = std::move(on_cancel);
  publish_(protocol::JobBegan{.job = job.number, .kind = job.kind});
  if (timer_ == 0) {
    timer_ = loop_.add_timer(EventLoop::Clock::now() + kTellEvery, [this] { tell_progress(); });
  }
  return job;
}

void Jobs::tell_progress() {
  timer_ = 0;
  if (jobs_.empty()) return;
  for (const auto& job : jobs_) {
    const auto state = job->progress.state();
    const auto told = std::exchange(job->told, state);
    if (state.phase == told.phase && state.done == told.done) continue;
    publish_(protocol::JobProgressed{state_of(*job)});
  }
  timer_ = loop_.add_timer(EventLoop::Clock::now() + kTellEvery, [this] { tell_progress(); });
}

void Jobs::finish(std::uint64_t number, Result<std::string> result) {
  const auto it = std::ranges::find(jobs_, number, [](const auto& job) { return job->number; });
  if (it == jobs_.end()) return;
  const auto job = std::move(*it);
  jobs_.erase(it);
  protocol::JobFinished event{
      .job = number, .kind = job->kind, .ok = result.has_value(), .error = {}};
  if (!result) event.error = result.error().message();
  publish_(event);
  finished_.push_back({number, result});
  if (finished_.size() > kKept) finished_.pop_front();
  for (const auto& answer : job->waiting) answer(result);
}

Jobs::Job* Jobs::find(std::uint64_t number) {
  const auto it = std::ranges::find(jobs_, number, [](const auto& job) { return job->number; });
  return it == jobs_.end() ? nullptr : it->get();
}

void Jobs::cancel(Job& job) {
  if (job.progress.is_cancelled()) return;
  job.progress.cancel();
  if (job.on_cancel) job.on_cancel();
}

Result<void> Jobs::cancel(std::uint64_t number) {
  if (auto* job = find(number)) {
    cancel(*job);
    return {};
  }
  if (number == 0 || number > last_) return fail("no job {}: `jobs` lists them", number);
  return fail("job {} has ended", number);
}

void Jobs::cancel_all() {
  for (const auto& job : jobs_) cancel(*job);
}

void Jobs::wait(std::uint64_t number, const ControlServer::Answer& answer) {
  if (auto* job = find(number)) return add_waiting(job->waiting, answer);
  const auto it = std::ranges::find(finished_, number, &Finished::number);
  if (it != finished_.end()) return answer(it->result);
  if (number == 0 || number > last_) return answer(fail("no job {}: `jobs` lists them", number));
  answer(fail("job {} ended long ago: the results of the last {} are kept", number, kKept));
}

protocol::JobState Jobs::state_of(const Job& job) {
  const auto state = job.progress.state();
  return {.job = job.number,
          .kind = job.kind,
          .phase = std::string(state.phase),
          .done = state.done,
          .total = state.total,
          .cancelled = job.progress.is_cancelled()};
}

protocol::JobList Jobs::list() const {
  protocol::JobList list;
  for (const auto& job : jobs_) list.jobs.push_back(state_of(*job));
  return list;
}

}  // namespace vmm
