// Jobs: what a machine is busy with for longer than a request may take. Each has a number, says how
// far it is, can be cancelled, and is waited for. On the loop's thread, but for the JobProgress.
//
//   auto& job = jobs.begin("snapshot", [this] { saver_->cancel(); });
//   ... a thread works, and tells job.progress how far it is ...
//   jobs.finish(job.number, result);            // JSON, or the error
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/base/event_loop.h"
#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/hypervisor/session/control_server.h"
#include "src/protocol/control.h"

namespace vmm {

class Jobs {
 public:
  using Publish = std::function<void(const protocol::Event&)>;
  // How many that have ended can still be waited for.
  static constexpr std::size_t kKept = 16;

  struct Job {
    std::uint64_t number = 0;
    std::string kind;
    JobProgress progress;

   private:
    friend class Jobs;
    std::function<void()> on_cancel;
    std::vector<ControlServer::Answer> waiting;
    JobProgress::State told;
  };

  Jobs(EventLoop& loop, Publish publish) : loop_(loop), publish_(std::move(publish)) {}
  ~Jobs();

  // `on_cancel`: called once at most, after the progress is cancelled.
  Job& begin(std::string kind, std::function<void()> on_cancel);
  // The job is gone then.
  void finish(std::uint64_t number, Result<std::string> result);

  // Error: no such job, or it has ended.
  Result<void> cancel(std::uint64_t number);
  void cancel_all();
  // Answers when it ends, at once when it has.
  void wait(std::uint64_t number, const ControlServer::Answer& answer);
  protocol::JobList list() const;
  bool empty() const { return jobs_.empty(); }

 private:
  struct Finished {
    std::uint64_t number;
    Result<std::string> result;
  };
  Job* find(std::uint64_t number);
  static protocol::JobState state_of(const Job& job);
  void cancel(Job& job);
  void tell_progress();

  EventLoop& loop_;
  const Publish publish_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::deque<Finished> finished_;
  std::uint64_t last_ = 0;
  std::uint64_t timer_ = 0;  // of tell_progress(); 0: none
};

// Those who wait for one thing. Of clients that come, wait and go, none is kept for long.
void add_waiting(std::vector<ControlServer::Answer>& waiting, const ControlServer::Answer& answer);

}  // namespace vmm
