#include "src/engine/cli/supervisor_client.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "src/base/unix_socket.h"
#include "src/engine/cli/commands.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;
using Kind = Outcome::Kind;

std::string notice_in(const agent::Message& message) {
  const auto notice = agent::decode<wire::Notice>(message);
  return notice ? notice->text : "";
}

std::optional<Outcome> outcome_of(const agent::Message& message) {
  if (const auto exited = agent::decode<wire::Exited>(message)) {
    return Outcome{Kind::exited, exited->code, ""};
  }
  if (const auto failed = agent::decode<wire::Failed>(message)) {
    return Outcome{Kind::failed, failed->code, failed->text};
  }
  return std::nullopt;
}

// Messages until `wanted` says that it was the one; none: the time is over.
Result<std::optional<Outcome>> receive(const UniqueFd& socket, int milliseconds, auto wanted) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::milliseconds(milliseconds);
  agent::MessageReader reader;
  for (;;) {
    const auto message = TRY(reader.next());
    if (message) {
      if (const auto notice = notice_in(*message); !notice.empty()) print_error(notice);
      if (auto outcome = wanted(*message)) return outcome;
      continue;
    }
    int left = -1;
    if (milliseconds >= 0) {
      const auto time = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      if (time.count() <= 0) return std::optional<Outcome>();
      left = static_cast<int>(time.count());
    }
    pollfd ready{socket.get(), POLLIN, 0};
    if (::poll(&ready, 1, left) < 0 && errno != EINTR) return fail_errno("cannot wait");
    if (ready.revents == 0) continue;
    std::array<char, 16384> bytes;
    const ssize_t n = ::recv(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return std::optional<Outcome>(Outcome{});
    reader.append({bytes.data(), static_cast<std::size_t>(n)});
  }
}

class Attachment {
 public:
  Attachment(EventLoop& loop, UniqueFd socket, AttachOptions options)
      : streams_(options.streams),
        own_(loop, {options.streams.input, options.tty, options.pass_signals, options.keys},
             {[this](std::string_view bytes) { send(wire::Input{wire::to_bytes(bytes)}); },
              [this] { send(wire::InputEnd{}); }, [this] { return channel_.pending(); },
              [this](const wire::TerminalSize& size) { send(wire::Resize{size}); },
              [this](int number) { send(wire::Signal{static_cast<std::uint8_t>(number)}); }}),
        channel_(loop, std::move(socket),
                 {[this](const agent::Message& message) { hear(message); },
                  [this] { end(Outcome{}); }, [this] { own_.input_taken(); }}) {}

  Result<void> begin() {
    send(streams_);
    return own_.begin();
  }
  const std::string& notice() const { return notice_; }
  Outcome outcome() const { return outcome_.value_or(Outcome{Kind::detached, own_.code(), ""}); }

 private:
  template <typename T>
  void send(const T& message) {
    channel_.send(message);
  }
  void end(Outcome outcome) {
    if (outcome_) return;
    outcome_ = std::move(outcome);
    own_.finish(outcome_->code);
  }
  void hear(const agent::Message& message) {
    if (const auto output = agent::decode<wire::Output>(message)) {
      return own_.output(output->stream, wire::to_view(output->bytes));
    }
    if (message.type == wire::Notice::kType) notice_ = notice_in(message);
    if (message.type == wire::Started::kType) return own_.send_size();
    if (auto outcome = outcome_of(message)) end(std::move(*outcome));
  }

  const wire::Attach streams_;
  Foreground own_;
  Channel channel_;
  std::optional<Outcome> outcome_;
  std::string notice_;
};

}  // namespace

Result<UniqueFd> connect_to_supervisor(const std::string& directory) {
  return connect_unix(directory + "/supervisor");
}

Result<Outcome> wait_for_start(UniqueFd socket) {
  const auto found = TRY(receive(socket, -1, [](const agent::Message& message) {
    return message.type == wire::Started::kType ? std::optional(Outcome{Kind::started, 0, ""})
                                                : outcome_of(message);
  }));
  return found.value_or(Outcome{});
}

Result<std::optional<Outcome>> wait_for_exit(UniqueFd socket, int milliseconds) {
  return receive(socket, milliseconds, outcome_of);
}

Result<Outcome> stay_attached(UniqueFd socket, AttachOptions options) {
  const auto loop = TRY(EventLoop::create());
  std::string notice;  // said when the terminal is the person's again
  const auto outcome = [&]() -> Result<Outcome> {
    Attachment attachment(*loop, std::move(socket), std::move(options));
    TRY(attachment.begin());
    loop->run();
    notice = attachment.notice();
    return attachment.outcome();
  }();
  if (!notice.empty()) print_error(notice);
  return outcome;
}

}  // namespace vmm::engine::cli
