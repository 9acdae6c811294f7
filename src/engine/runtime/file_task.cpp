#include "src/engine/runtime/file_task.h"

#include <signal.h>

#include "src/engine/runtime/agent_process.h"

namespace vmm::engine {
namespace {

namespace agent = protocol::agent;
using protocol::files::End;
using protocol::files::Entry;

constexpr std::size_t kMostPending = 1u << 20;
constexpr std::size_t kMostSaid = 4096;

class Task {
 public:
  Task(EventLoop& loop, const std::string& directory, TakeFile take,
       std::chrono::milliseconds patience)
      : loop_(loop),
        take_(std::move(take)),
        patience_(patience),
        process_(
            loop, directory, new_process_id(),
            {[this] {
               started_ = true;
               loop_.stop();
             },
             [this](const agent::Failed& failed) { end(fail("{}", failed.text)); },
             [this](wire::Stream stream, std::string_view bytes) { hear(stream, bytes); },
             [this] { loop_.stop(); }, [this](const agent::Exited& exited) { exited_with(exited); },
             [this] { end(fail("the container's machine ended")); }}) {}
  ~Task() {
    if (timer_) loop_.cancel_timer(*timer_);
  }

  Result<void> start(const agent::FileTask& task) {
    agent::Start request;
    request.files = task;
    request.input = task.kind == agent::FileTask::Kind::unpack;
    request.lost_output = agent::LostOutput::is_dropped;
    process_.start(std::move(request));
    wait_until([this] { return started_; });
    return {};
  }
  Result<void> send(const std::string& message) {
    process_.write_input(message);
    wait_until([this] { return process_.input_pending() <= kMostPending; });
    return over_ ? finish() : Result<void>();
  }
  Result<void> finish() {
    process_.end_input();
    wait_until([] { return false; });
    if (error_) return std::unexpected(*error_);
    if (take_ && !has_end_) return fail("the machine's stream of files broke off");
    return {};
  }
  // Nobody wants it any more.
  void give_up() {
    if (!over_) process_.signal(SIGKILL);
  }

 private:
  template <typename IsDone>
  void wait_until(IsDone is_done) {
    expect_progress();
    while (!is_done() && !over_) loop_.run();
    if (timer_) loop_.cancel_timer(*timer_);
    timer_.reset();
  }
  // From now on. Not while somebody else is waited for, who makes the stream or takes it.
  void expect_progress() {
    if (timer_) loop_.cancel_timer(*timer_);
    timer_ = loop_.add_timer(
        EventLoop::Clock::now() + patience_, [this, pending = process_.input_pending()] {
          timer_.reset();
          if (over_) return;
          if (process_.input_pending() < pending) return expect_progress();
          give_up();
          end(fail("the machine's agent has not gone on with the files for {:g} s",
                   std::chrono::duration<double>(patience_).count()));
        });
  }
  void end(const Result<void>& result) {
    if (!result && !error_) error_ = result.error();
    over_ = true;
    loop_.stop();
  }
  void hear(wire::Stream stream, std::string_view bytes) {
    if (over_) return;
    if (stream == wire::Stream::error) {
      said_ += bytes.substr(0, kMostSaid - said_.size());
      return;  // no progress: a machine could say it for ever
    }
    reader_.append(bytes);
    const auto taken = [this]() -> Result<void> {
      while (const auto message = TRY(reader_.next())) {
        if (has_end_) return fail("the machine's stream of files goes on after its end");
        has_end_ = message->type == End::kType;
        if (!has_end_ && take_) TRY(take_(*message));
      }
      return {};
    }();
    if (taken) return expect_progress();
    give_up();
    end(taken);
  }
  void exited_with(const agent::Exited& exited) {
    if (exited.code == 0 && exited.signal == 0) return end({});
    for (char& one : said_) one = static_cast<unsigned char>(one) < ' ' ? '?' : one;
    end(fail("{}", said_.empty() ? "the machine's agent failed with the files" : said_));
  }

  EventLoop& loop_;
  const TakeFile take_;
  const std::chrono::milliseconds patience_;
  std::optional<std::uint64_t> timer_;
  bool started_ = false, over_ = false, has_end_ = false;
  std::optional<Error> error_;
  std::string said_;
  agent::MessageReader reader_;
  AgentProcess process_;
};

}  // namespace

Result<void> read_files(const std::string& directory, const agent::FileTask& request,
                        const TakeFile& take, std::chrono::milliseconds patience) {
  const auto loop = TRY(EventLoop::create());
  Task task(*loop, directory, take, patience);
  TRY(task.start(request));
  return task.finish();
}

Result<void> write_files(const std::string& directory, const agent::FileTask& request,
                         const std::function<Result<void>(const files::Send&)>& produce,
                         std::chrono::milliseconds patience) {
  const auto loop = TRY(EventLoop::create());
  Task task(*loop, directory, nullptr, patience);
  TRY(task.start(request));
  const auto produced = produce([&task](const std::string& message) { return task.send(message); });
  if (!produced) {
    task.give_up();
    return produced;
  }
  return task.finish();
}

Result<std::optional<Entry>> examine_file(const std::string& directory, const std::string& path,
                                          bool follow) {
  std::optional<Entry> found;
  agent::FileTask task;
  task.path = path;
  task.follow = follow;
  TRY(read_files(directory, task, [&found](const agent::Message& message) -> Result<void> {
    found = TRY(agent::decode<Entry>(message));
    return {};
  }));
  return found;
}

}  // namespace vmm::engine
