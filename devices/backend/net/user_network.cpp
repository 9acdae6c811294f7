#include "devices/backend/net/user_network.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "src/base/helper_program.h"
#include "src/base/log.h"
#include "src/user_net/wire.h"

namespace vmm::net {
namespace {

using user_net::HostForward;

constexpr std::string_view kProgram = "vmm-net";
constexpr int kSocketNumber = 3;  // the first that is passed
// The queue's thread waits so long, and a guest that resets its card with it.
constexpr auto kRestartPatience = std::chrono::seconds(2);
constexpr auto kAnswerPatience = std::chrono::seconds(10);
constexpr int kBacklog = 256;

struct Pair {
  UniqueFd own, other;
  static Result<Pair> create() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0) {
      return fail_errno("cannot create a network socket");
    }
    return Pair{UniqueFd(ends[0]), UniqueFd(ends[1])};
  }
};

// A socket that listens at the host's end of it; `port`: one.
Result<UniqueFd> listen_at(const HostForward& port) {
  const bool udp = port.protocol == HostForward::Protocol::udp;
  const auto address = port.host.socket_address(port.host_port);
  UniqueFd fd(::socket(address.ss_family,
                       (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return user_net::not_published(port);
  const int on = 1;
  if (address.ss_family == AF_INET6 &&
      ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) {
    return user_net::not_published(port);
  }
  // A connection of before does not keep it; another one's datagram socket would share it.
  if (!udp) (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const socklen_t size = port.host.is_ipv4() ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) < 0 ||
      (!udp && ::listen(fd.get(), kBacklog) < 0)) {
    return user_net::not_published(port);
  }
  return fd;
}

// Each port alone; those of `these` that are not in `others`, to the same port of the guest.
std::vector<HostForward> ports_only_in(const std::vector<HostForward>& these,
                                       const std::vector<HostForward>& others) {
  std::vector<HostForward> result;
  for (const auto& forward : these) {
    for (unsigned i = 0; i < forward.count; ++i) {
      const auto port = forward.one(i);
      const auto has_it = [&port](const HostForward& other) {
        return other.overlaps(port) && other.one(port.host_port - other.host_port) == port;
      };
      if (std::ranges::none_of(others, has_it)) result.push_back(port);
    }
  }
  return result;
}

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
  auto frames = TRY(Pair::create()), ports = TRY(Pair::create());
  std::vector<std::string> arguments = {program, std::to_string(kSocketNumber),
                                        std::to_string(kSocketNumber + 1)};
  const auto options = user_net::to_arguments(config);
  arguments.insert(arguments.end(), options.begin(), options.end());
  // The guest's console is on the standard streams: it has no business there. Errors it may tell.
  auto process = TRY(Child::spawn({.path = program,
                                   .arguments = std::move(arguments),
                                   .passed = {frames.other.get(), ports.other.get()},
                                   .error = STDERR_FILENO}));
  return Started{std::move(frames.own), std::move(ports.own), std::move(process)};
}

UserNetwork::UserNetwork(user_net::Config config, const std::string& resolv_conf, Started started)
    : SocketBackend(std::move(started.socket)),
      config_(std::move(config)),
      names_(resolv_conf),
      ports_(std::move(started.ports)),
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
  ports_ = std::move(started.ports);
  process_.emplace(std::move(started.process));
  auto ready = wait_ready(kRestartPatience);
  if (!ready) process_.reset();
  return ready;
}

// ---- ports

class UserNetwork::OpenPorts : public PortChange {
 public:
  OpenPorts(UserNetwork& network, std::vector<HostForward> wanted)
      : network_(network), wanted_(std::move(wanted)) {}

  Result<void> open() {
    gone_ = ports_only_in(network_.config_.forwards, wanted_);
    for (auto& port : ports_only_in(wanted_, network_.config_.forwards)) {
      auto socket = TRY(listen_at(port));
      added_.push_back({port, std::move(socket)});
    }
    return {};
  }

  // A process that is gone gets them when it is started again.
  Result<void> make() override {
    const auto added = std::exchange(added_, {});  // whatever comes, here none stays open
    for (std::size_t i = 0; i < added.size(); ++i) {
      const auto asked = network_.ask(added[i].port, added[i].socket.get());
      if (asked && *asked == Asked::gone) break;
      if (asked) continue;
      while (i-- > 0) withdraw(added[i].port);
      return std::unexpected(asked.error());
    }
    for (const auto& port : gone_) withdraw(port);
    network_.config_.forwards = std::move(wanted_);
    return {};
  }

 private:
  struct Added {
    HostForward port;
    UniqueFd socket;
  };
  // A process that does not close one is ended: that which follows it publishes those of the
  // configuration, and no others.
  void withdraw(const HostForward& port) const {
    if (!network_.ask(port, -1)) network_.process_->kill();
  }

  UserNetwork& network_;
  std::vector<HostForward> wanted_, gone_;
  std::vector<Added> added_;
};

std::vector<std::string> UserNetwork::ports() const {
  std::vector<std::string> texts;
  for (const auto& forward : config_.forwards) texts.push_back(forward.text());
  return texts;
}

Result<std::unique_ptr<PortChange>> UserNetwork::prepare_ports(
    const std::vector<HostForward>& wanted) {
  auto config = config_;
  config.forwards = wanted;
  TRY(config.check());
  auto change = std::make_unique<OpenPorts>(*this, wanted);
  TRY(change->open());
  return change;
}

Result<UserNetwork::Asked> UserNetwork::ask(const HostForward& port, int socket) const {
  if (!process_) return Asked::gone;
  user_net::PortMessage message;
  message.publish = socket >= 0 ? 1 : 0;
  message.udp = port.protocol == HostForward::Protocol::udp ? 1 : 0;
  message.host_port = port.host_port;
  message.guest_port = port.guest_port;
  message.host = port.host.bytes;
  message.guest = port.guest.bytes;
  iovec part{&message, sizeof message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof socket)> space{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (socket >= 0) {
    header.msg_control = space.data();
    header.msg_controllen = space.size();
    cmsghdr* control = CMSG_FIRSTHDR(&header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof socket);
    std::memcpy(CMSG_DATA(control), &socket, sizeof socket);
  }
  if (::sendmsg(ports_.get(), &header, MSG_NOSIGNAL) < 0) return Asked::gone;
  std::array<char, 1024> answer;
  const ssize_t n = wait_for(ports_.get(), POLLIN, kAnswerPatience)
                        ? ::recv(ports_.get(), answer.data(), answer.size(), MSG_DONTWAIT)
                        : 0;
  user_net::Hello hello;
  if (n < static_cast<ssize_t>(sizeof hello)) {
    process_->kill();  // it ends already, or is of no use: reopen() starts another one
    return Asked::gone;
  }
  std::memcpy(&hello, answer.data(), sizeof hello);
  if (hello.failed == 0) return Asked::done;
  const std::string_view whole(answer.data(), static_cast<std::size_t>(n));
  return fail("{}", whole.substr(sizeof hello));
}

}  // namespace vmm::net
