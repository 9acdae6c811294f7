// vmm ctl SOCKET COMMAND [ARGUMENT]
#include <boost/program_options.hpp>
#include <fmt/core.h>

#include <array>
#include <filesystem>
#include <limits>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/ctl_jobs.h"
#include "src/cli/commands/fork.h"
#include "src/cli/commands/long_work.h"
#include "src/cli/commands/subcommand.h"
#include "src/cli/config/given_machine.h"
#include "src/protocol/control_v1.h"
#include "src/user_net/config.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;

struct Words {
  std::vector<std::string> names;  // the socket, then a size or a directory
  std::string parent;              // of an incremental snapshot
  bool live = false, stop = false;
  std::string forks = "1";
  CopyOptions copies;
  std::string progress = "auto";
};

constexpr std::uint64_t kMostForks = 1000;
constexpr std::size_t kMostPorts = 1 + user_net::kMostPublished;  // and their network

Result<int> ask(const std::string& socket, const protocol::RequestV1& request) {
  const auto result = TRY(protocol::call(socket, request));
  if (!result.empty()) fmt::print("{}\n", result);
  return 0;
}

// For a request that is a word, with an argument or without.
template <const char* command>
Result<int> ask_plainly(const Words& words) {
  return ask(words.names[0], {command, words.names.size() > 1 ? words.names[1] : "", {}});
}

// Paths of this process, for another one. `..` stays: behind a symbolic link it leads elsewhere.
std::string absolute(const std::string& path) {
  auto whole = std::filesystem::absolute(path).string();
  while (whole.size() > 1 && whole.ends_with('/')) whole.pop_back();
  return whole;
}

void describe_snapshot(po::options_description& options, Words& words) {
  const auto set_parent = [&words](const std::string& parent) {
    if (parent.empty()) throw po::error("--incremental takes the directory of a snapshot");
    words.parent = parent;
  };
  options.add_options()  //
      ("incremental", po::value<std::string>()->notifier(set_parent)->value_name("DIR"),
       "store only what changed since that snapshot")("live", po::bool_switch(&words.live),
                                                      "the guest runs on while it is saved")(
          "stop", po::bool_switch(&words.stop), "end the machine when it is saved")(
          "progress", po::value(&words.progress)->value_name("auto|plain|none"), kProgressHelp);
}

Result<int> take_snapshot(const Words& words) {
  protocol::Snapshot request{
      .directory = absolute(words.names[1]), .live = words.live, .stop = words.stop};
  if (!words.parent.empty()) request.parent = absolute(words.parent);
  fmt::print("{}\n", TRY(run_job(words.names[0], request, words.progress,
                                 fmt::format("'{}' was not saved", words.names[1]))));
  return 0;
}

Result<int> print(const Result<std::string>& answer) {
  const auto text = TRY(answer);
  if (!text.empty()) fmt::print("{}\n", text);
  return 0;
}

Result<int> events(const Words& words) {
  TRY(print_events(words.names[0]));
  return 0;
}

Result<std::uint64_t> job_of(const Words& words, std::string_view what) {
  return parse_number(words.names[1], 1, std::numeric_limits<std::uint64_t>::max(), what);
}

Result<int> wait(const Words& words) {
  protocol::Wait request;
  if (words.names.size() > 1) request.job = TRY(job_of(words, "wait JOB"));
  return print(ask_once(words.names[0], request));
}

Result<int> jobs(const Words& words) { return print(ask_once(words.names[0], protocol::Jobs{})); }

Result<int> cancel(const Words& words) {
  return print(ask_once(words.names[0], protocol::Cancel{TRY(job_of(words, "cancel JOB"))}));
}

void describe_fork(po::options_description& options, Words& words) {
  auto option = options.add_options();
  option(",n", po::value(&words.forks)->value_name("N"), "how many copies (1)");
  option("progress", po::value(&words.progress)->value_name("auto|plain|none"), kProgressHelp);
  for (const auto& key : config::component_keys()) {
    const std::string name(key.name);
    const auto take = [&words, name](const std::vector<std::string>& texts) {
      for (const auto& text : texts) words.copies.emplace_back(name, text);
    };
    option(name.c_str(),
           po::value<std::vector<std::string>>()->composing()->notifier(take)->value_name(
               std::string(key.form)),
           "of each copy, as with --restore; {n} in it is the copy's number");
  }
}

Result<int> fork(const Words& words) {
  const auto count = TRY(parse_number(words.forks, 1, kMostForks, "fork -n"));
  const auto work = [&](Progress& progress) {
    return fork_machine(words.names[0], absolute(words.names[1]), count, words.copies, progress);
  };
  fmt::print(
      "{}\n",
      TRY(run_long(words.progress,
                   fmt::format("'{}' was not saved, and no copy started", words.names[1]), work)));
  return 0;
}

// ---- slots

template <typename T>
Result<int> attach(const Words& words) {
  T request;
  request.component = words.names[1];
  request.attachment.text = TRY(config::to_attachment(request.component, words.names[2]));
  return print(ask_once(words.names[0], request));
}

Result<int> detach(const Words& words) {
  return print(ask_once(words.names[0], protocol::Detach{words.names[1]}));
}

Result<int> resize(const Words& words) {
  return print(ask_once(words.names[0], protocol::Resize{words.names[1], words.names[2]}));
}

Result<int> working_set(const Words& words) {
  return print(ask_once(words.names[0], protocol::WorkingSet{}));
}

template <typename T>
Result<int> change_ports(const Words& words) {
  T request;
  request.component = words.names[1];
  request.ports.assign(words.names.begin() + 2, words.names.end());
  return print(ask_once(words.names[0], request));
}

constexpr char kStatus[] = "status", kMetrics[] = "metrics", kPause[] = "pause",
               kResume[] = "resume", kPowerButton[] = "power-button", kStop[] = "stop",
               kBalloon[] = "balloon";

constexpr std::array<Subcommand<Words>, 20> kSubcommands = {{
    {kStatus, "", "what it is and does, as JSON", 0, 0, nullptr, &ask_plainly<kStatus>},
    {kMetrics, "", "exits, input and output, memory, as JSON", 0, 0, nullptr,
     &ask_plainly<kMetrics>},
    {kPause, "", "stop its vCPUs", 0, 0, nullptr, &ask_plainly<kPause>},
    {kResume, "", "let them go on", 0, 0, nullptr, &ask_plainly<kResume>},
    {kPowerButton, "", "ask the guest to power off", 0, 0, nullptr, &ask_plainly<kPowerButton>},
    {kStop, "", "end it at once; its exit code is 5", 0, 0, nullptr, &ask_plainly<kStop>},
    {kBalloon, "SIZE", "take SIZE of memory from the guest; 0 gives all back", 1, 1, nullptr,
     &ask_plainly<kBalloon>},
    {"fork", "DIR",
     "save it as DIR while it runs on, and start copies of it, each with its control socket and "
     "its console in DIR.forks; prints what they are, as JSON",
     1, 1, &describe_fork, &fork},
    {"snapshot", "DIR", "save all of it as DIR, for `vmm --restore DIR`", 1, 1, &describe_snapshot,
     &take_snapshot},
    {"working-set", "",
     "of one that was restored: note what its guest has touched, beside the snapshot, for later "
     "restores to bring in at once; by itself that is noted after a second of the first",
     0, 0, nullptr, &working_set},
    {"attach", "COMPONENT WORDS",
     "connect a slot: blk1 to `root.img,format=raw`, net0 to `user,hostfwd=tcp::8080-:80`, vsock "
     "to a path; the words are those of the option",
     2, 2, nullptr, &attach<protocol::Attach>},
    {"detach", "COMPONENT", "empty a slot: its guest's requests are finished first", 1, 1, nullptr,
     &detach},
    {"replace", "COMPONENT WORDS", "detach and attach in one step", 2, 2, nullptr,
     &attach<protocol::Replace>},
    {"resize", "COMPONENT SIZE", "enlarge the disk in a slot, for its guest as well", 2, 2, nullptr,
     &resize},
    {"publish", "NET PORT...",
     "let ports of the host reach the guest, by a network of kind user: net0 `tcp::8080-:80`, as "
     "hostfwd of --net; connections through others go on",
     2, kMostPorts, nullptr, &change_ports<protocol::Publish>},
    {"unpublish", "NET PORT...",
     "close ports of the host: net0 `tcp::8080`; connections that came through them go on", 2,
     kMostPorts, nullptr, &change_ports<protocol::Unpublish>},
    {"jobs", "", "what it is busy with, and how far that is, as JSON", 0, 0, nullptr, &jobs},
    {"cancel", "JOB", "end a job; what it made is removed", 1, 1, nullptr, &cancel},
    {"wait", "[JOB]",
     "wait until the machine ends, and print its exit code and why, as JSON; or for a job, and "
     "print what it came to",
     0, 1, nullptr, &wait},
    {"events", "", "print what happens to it, a line of JSON each, until it ends", 0, 0, nullptr,
     &events},
}};

constexpr Group<Words> kGroup = {"ctl", "SOCKET", "control a running machine", kSubcommands};

}  // namespace

Page ctl_page() {
  Page page = page_of(kGroup);
  page.description = {
      "Talks to a running machine through the socket that its option --control made.",
      "A snapshot is a job: it goes on when its terminal is gone. Ctrl-C cancels it, and a fork as "
      "well, and nothing of it is left."};
  page.sections.push_back(events_section());
  return page;
}

int ctl(Arguments arguments) {
  if (arguments.size() < 2) {
    return refuse("ctl takes a socket and a command: vmm ctl SOCKET status");
  }
  return run_subcommand(kGroup, arguments);
}

}  // namespace vmm::cli
