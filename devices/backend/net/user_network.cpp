#include "devices/backend/net/user_network.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "src/base/helper_program.h"
#include "src/base/log.h"
#include "src/user_net/wire.h"

namespace vmm::net {
namespace {

constexpr std::string_view kProgram = "vmm-net";
constexpr int kSocketNumber = 3;  // the first that is passed
// The queue's thread waits so long, and a guest that resets its card with it.
constexpr auto kRestartPatience = std::chrono::seconds(2);

}  // namespace

Result<std::string> UserNetwork::find_program() {
  return find_helper_program({"network program", kProgram, "src/user_net"});
}

Result<std::unique_ptr<UserNetwork>> UserNetwork::spawn(const user_net::Config& config,
                                                        const std::string& resolv_conf) {
  TRY(config.check());
  auto started =
      TRY(start_process(config));  // not within `new`, which would have its memory already
  std::unique_ptr<UserNetwork> network(new UserNetwork(config, resolv_conf, std::move(started)));
  const auto& complaint = network->names_.complaint();
  if (!complaint.empty() && !config.restricted) {
    // check: unlimited-log allowed, once a card
    log::warn("{}: no names resolve in the guest until that changes", complaint);
  }
  return network;
}

Result<UserNetwork::Started> UserNetwork::start_process(const user_net::Config& config) {
  const auto program = TRY(find_program());
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return fail_errno("cannot create a network socket");
  }
  UniqueFd own(ends[0]);
  const UniqueFd other(ends[1]);
  std::vector<std::string> arguments = {program, std::to_string(kSocketNumber)};
  const auto options = user_net::to_arguments(config);
  arguments.insert(arguments.end(), options.begin(), options.end());
  // The guest's console is on the standard streams: it has no business there. Errors it may tell.
  auto process = TRY(Child::spawn({.path = program,
                                   .arguments = std::move(arguments),
                                   .passed = {other.get()},
                                   .error = STDERR_FILENO}));
  return Started{std::move(own), std::move(process)};
}

UserNetwork::UserNetwork(user_net::Config config, const std::string& resolv_conf, Started started)
    : SocketBackend(std::move(started.socket)),
      config_(std::move(config)),
      names_(resolv_conf),
      process_(std::move(started.process)) {}

UserNetwork::~UserNetwork() { shut(); }

Result<void> UserNetwork::start(std::uint64_t features) {
  TRY(wait_ready());
  (void)names_.refresh();  // what went on while nobody listened
  TRY(tell_names());
  return SocketBackend::start(features);
}

void UserNetwork::take_notice() {
  // An error means that the process is gone, which the queue notices.
  if (names_.refresh()) (void)tell_names();
}

Result<void> UserNetwork::tell_names() const {
  user_net::NameServerMessage message;
  TRY(send_message(&message, sizeof message));  // the list anew
  for (const auto& server : names_.servers()) {
    ++message.index;
    message.address = server.address.bytes;
    message.scope = server.scope;
    TRY(send_message(&message, sizeof message));
  }
  return {};
}

void UserNetwork::closed() {
  if (!process_) return;             // reopen() said so
  const auto end = process_->end();  // it closed its socket, so it is ending or useless
  process_.reset();
  // check: unlimited-log allowed, once a process
  log::error("the network process {}: the guest's network is down", end.text());
}

std::optional<std::chrono::milliseconds> UserNetwork::retry_delay() {
  constexpr auto kSettled = std::chrono::minutes(1);
  if (std::chrono::steady_clock::now() - started_ > kSettled) next_retry_ = kFirstRetry;
  const auto delay = next_retry_;
  next_retry_ = std::min<std::chrono::milliseconds>(2 * delay, kLastRetry);
  return delay;
}

Result<void> UserNetwork::reopen() {
  process_.reset();
  started_ = std::chrono::steady_clock::now();
  auto started = TRY(start_process(config_));
  adopt(std::move(started.socket));
  process_.emplace(std::move(started.process));
  auto ready = wait_ready(kRestartPatience);
  if (!ready) process_.reset();
  return ready;
}

}  // namespace vmm::net
