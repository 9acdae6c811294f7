#include "src/engine/runtime/agent_process.h"

#include <signal.h>

#include <chrono>

namespace vmm::engine {

namespace agent = protocol::agent;
using agent::Kind;
using std::chrono::seconds;

namespace {

// For outputs to end once the process has: a machine that never ends them is not waited for.
constexpr seconds kDrainPatience{10};

}  // namespace

AgentProcess::AgentProcess(EventLoop& loop, std::string directory, const agent::ProcessId& id,
                           Callbacks callbacks)
    : loop_(loop), directory_(std::move(directory)), callbacks_(std::move(callbacks)), id_(id) {}

AgentProcess::~AgentProcess() {
  if (drain_timer_) loop_.cancel_timer(*drain_timer_);
}

void AgentProcess::start(agent::Start request) {
  request_ = std::move(request);
  open_control([this] { control_->send(request_); });
}

void AgentProcess::follow(agent::Start request) {
  request_ = std::move(request);
  open_control([this] { control_->send(agent::Follow{}); });
}

void AgentProcess::open_control(std::function<void()> ask) {
  links_.push_back(std::make_unique<AgentLink>(
      loop_, directory_, agent::Header{Kind::control, id_},
      [this, ask = std::move(ask)](Result<UniqueFd> socket) {
        if (!socket) return lose();
        control_ = std::make_unique<Channel>(
            loop_, std::move(*socket),
            Channel::Callbacks{[this](const agent::Message& message) { take_message(message); },
                               [this] { lose(); }, nullptr});
        ask();
      }));
}

void AgentProcess::lose() {
  if (over_ || exited_ || lost_) return;
  lost_ = true;
  expect_end();
}

// What came before the end is still to be read.
void AgentProcess::expect_end() {
  if (drain_timer_) loop_.cancel_timer(*drain_timer_);
  drain_timer_ = loop_.add_timer(EventLoop::Clock::now() + kDrainPatience, [this] {
    drain_timer_.reset();
    output_.reset();
    error_.reset();
    opening_ = 0;
    if (!lost_ && !exited_) exited_.emplace();  // which a stream that was refused holds up
    check_end();
  });
  check_end();
}

void AgentProcess::take_message(const agent::Message& message) {
  if (over_) return;
  if (message.type == agent::Started::kType) return open_streams();
  if (message.type == agent::Failed::kType) {
    over_ = true;
    const auto failed = agent::decode<agent::Failed>(message);
    return callbacks_.failed(
        failed ? *failed
               : agent::Failed{agent::Failed::Reason::setup, 0, failed.error().message()});
  }
  const auto exited = agent::decode<agent::Exited>(message);
  if (!exited || exited_) return;
  exited_ = *exited;
  expect_end();
}

void AgentProcess::open_streams() {
  if (request_.terminal) {
    open_stream(Kind::terminal);
  } else {
    open_stream(Kind::standard_output);
    open_stream(Kind::standard_error);
    if (request_.input) open_stream(Kind::standard_input);
  }
}

void AgentProcess::open_stream(Kind kind) {
  ++opening_;
  links_.push_back(std::make_unique<AgentLink>(
      loop_, directory_, agent::Header{kind, id_},
      [this, kind](Result<UniqueFd> socket) { take_stream(kind, std::move(socket)); }));
}

void AgentProcess::take_stream(Kind kind, Result<UniqueFd> socket) {
  if (over_ || opening_ == 0) return;
  --opening_;
  // Some of its input or output would be lost, and nobody told: better it ends. The agent may wait
  // for that stream with what it says of the end. (Of a machine that has ended, the control
  // connection says so.)
  if (!socket && !exited_ && !lost_) {
    stream_error_ = fmt::format("cannot connect its streams: {}", socket.error().message());
    signal(SIGKILL);
    expect_end();
  }
  if (socket) {
    const auto stream = kind == Kind::standard_error ? wire::Stream::error : wire::Stream::output;
    auto connected = std::make_unique<StreamSocket>(
        loop_, std::move(*socket),
        StreamSocket::Callbacks{
            [this, stream](std::string_view bytes) { callbacks_.output(stream, bytes); },
            [this] { check_end(); },
            [this] {
              if (callbacks_.input_taken) callbacks_.input_taken();
            }});
    // Whoever sees a first word may answer it by a signal: the process has to count as started.
    if (kind != Kind::standard_input) connected->set_reading(false);
    const bool takes_input = kind == Kind::standard_input || kind == Kind::terminal;
    if (takes_input) {
      connected->write(std::exchange(early_input_, {}));
      if (input_ended_ && kind == Kind::standard_input) connected->end_writing();
    }
    (kind == Kind::standard_input   ? input_
     : kind == Kind::standard_error ? error_
                                    : output_) = std::move(connected);
  }
  if (opening_ == 0 && stream_error_.empty()) {
    callbacks_.started();
    set_output_reading(reading_);
    check_end();
  }
}

void AgentProcess::check_end() {
  const auto is_open = [](const auto& stream) { return stream && !stream->has_ended(); };
  if (over_ || (!exited_ && !lost_)) return;
  if ((opening_ > 0 && !lost_) || is_open(output_) || is_open(error_)) return;
  over_ = true;
  if (exited_ && !stream_error_.empty()) {
    return callbacks_.failed({agent::Failed::Reason::setup, 0, stream_error_});
  }
  if (exited_) return callbacks_.exited(*exited_);
  callbacks_.lost();
}

void AgentProcess::write_input(std::string_view bytes) {
  auto& stream = request_.terminal ? output_ : input_;
  if (stream) return stream->write(bytes);
  early_input_ += bytes;
}

// Of a terminal, the end is a character, which the person types.
void AgentProcess::end_input() {
  input_ended_ = true;
  if (input_) input_->end_writing();
}

std::size_t AgentProcess::input_pending() const {
  const auto& stream = request_.terminal ? output_ : input_;
  return stream ? stream->pending() : early_input_.size();
}

void AgentProcess::resize(const wire::TerminalSize& size) {
  if (request_.terminal) request_.terminal = size;  // of one that has not started yet
  if (control_) control_->send(agent::Resize{size});
}

void AgentProcess::signal(int number) {
  if (control_) control_->send(agent::Signal{static_cast<std::uint8_t>(number)});
}

void AgentProcess::set_output_reading(bool on) {
  reading_ = on;
  for (const auto* stream : {&output_, &error_}) {
    if (*stream && !(*stream)->has_ended()) (*stream)->set_reading(on);
  }
}

}  // namespace vmm::engine
