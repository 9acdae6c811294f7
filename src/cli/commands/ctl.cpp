// vmm ctl SOCKET COMMAND [ARGUMENT]
#include <boost/program_options.hpp>
#include <fmt/core.h>

#include <array>
#include <filesystem>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/fork.h"
#include "src/cli/commands/words.h"
#include "src/protocol/control.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;

int ask(const std::string& socket, const protocol::Request& request) {
  const auto result = protocol::call(socket, request);
  if (!result) return refuse(result.error().message());
  if (!result->empty()) fmt::print("{}\n", *result);
  return 0;
}

constexpr std::uint64_t kMostForks = 1000;

// Paths of this process, for another one.
std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

int ctl_snapshot(const std::string& socket, Arguments arguments) {
  protocol::Request request{"snapshot", "", {}};
  bool live = false, stop = false;
  const auto set_parent = [&](const std::string& parent) {
    if (parent.empty()) throw po::error("--incremental takes the directory of a snapshot");
    request.options["incremental"] = absolute(parent);
  };
  po::options_description options;
  options.add_options()("incremental", po::value<std::string>()->notifier(set_parent))(
      "live", po::bool_switch(&live))("stop", po::bool_switch(&stop));
  const auto names =
      parse_words({"ctl SOCKET snapshot", "DIR [--incremental PARENT] [--live] [--stop]", 1, 1},
                  options, arguments);
  if (!names) return refuse(names.error().message());
  request.argument = absolute(names->front());
  if (live) request.options["live"] = "true";
  if (stop) request.options["stop"] = "true";
  return ask(socket, request);
}

int ctl_fork(const std::string& socket, Arguments arguments) {
  std::string number = "1";
  po::options_description options;
  options.add_options()(",n", po::value(&number));
  const auto names = parse_words({"ctl SOCKET fork", "DIR [-n N]", 1, 1}, options, arguments);
  if (!names) return refuse(names.error().message());
  const auto count = parse_number(number, 1, kMostForks, "fork -n:");
  if (!count) return refuse(count.error().message());
  const auto forks = fork_machine(socket, absolute(names->front()), *count);
  if (!forks) return refuse(forks.error().message());
  fmt::print("{}\n", *forks);
  return 0;
}

}  // namespace

std::string ctl_help() {
  return "Usage: vmm ctl SOCKET COMMAND\n\n"
         "Talks to a running machine through the socket that --control made.\n\n"
         "  status         what it is and does, as JSON\n"
         "  metrics        exits, input and output, memory, as JSON\n"
         "  pause          stop its vCPUs\n"
         "  resume         let them go on\n"
         "  power-button   ask the guest to power off\n"
         "  stop           end it at once; its exit code is 5\n"
         "  balloon SIZE   take SIZE of memory from the guest; 0 gives all back\n"
         "  fork DIR [-n N]\n"
         "                 save it as DIR while it runs on, and start N copies (1), each with its "
         "control\n"
         "                 socket and its console in DIR.forks; prints what they are, as JSON\n"
         "  snapshot DIR [--incremental PARENT] [--live] [--stop]\n"
         "                 save all of it as DIR, for `vmm --restore DIR`; only what changed since "
         "the\n"
         "                 snapshot PARENT; while the guest runs on; and end it then\n";
}

int ctl(Arguments arguments) {
  if (asks_for_help(arguments)) {
    fmt::print("{}", ctl_help());
    return 0;
  }
  if (arguments.size() > 1 && arguments[1] == "snapshot") {
    return ctl_snapshot(arguments[0], arguments.subspan(2));
  }
  if (arguments.size() > 1 && arguments[1] == "fork") {
    return ctl_fork(arguments[0], arguments.subspan(2));
  }
  if (arguments.size() < 2 || arguments.size() > 3) {
    return refuse("ctl takes a socket and a command: vmm ctl SOCKET status");
  }
  const bool takes_argument = arguments[1] == "balloon";
  if (takes_argument != (arguments.size() == 3)) {
    return refuse(takes_argument ? "balloon takes a size: vmm ctl SOCKET balloon 256M"
                                 : fmt::format("'{}' takes no argument", arguments[1]));
  }
  return ask(arguments[0],
             {arguments[1], arguments.size() == 3 ? arguments[2] : std::string(), {}});
}

}  // namespace vmm::cli
