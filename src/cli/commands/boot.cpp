// vmm --kernel bzImage --disk root.img --mem 2G
#include "arch/boot.h"

#include <boost/program_options.hpp>
#include <fcntl.h>
#include <fmt/core.h>
#include <malloc.h>
#include <sys/resource.h>

#include "src/base/log.h"
#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/config/disk_option.h"
#include "src/cli/config/machine_options.h"
#include "src/cli/config/restored_machine.h"
#include "src/hypervisor/session/session.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;
using config::MachineOptions;

// What the command line says beside the machine.
struct BootOptions {
  MachineOptions machine;
  std::string config_file;
  std::string restore;
  std::string dump_tables;
  int ready_fd = -1;
  std::string log_level = "warn";
  std::string log_file;
  bool print_config = false, dry_run = false, help = false, version = false;
  bool paused = false;
};

po::options_description describe(BootOptions& o) {
  const auto text = [](std::optional<std::string>& target) {
    return po::value<std::string>()->notifier([&target](const std::string& v) { target = v; });
  };
  const auto flag = [](std::optional<bool>& target, bool value) {
    return po::bool_switch()->notifier([&target, value](bool given) {
      if (given) target = value;
    });
  };
  po::options_description machine("The machine");
  machine.add_options()  //
      ("kernel", text(o.machine.kernel)->value_name("PATH"),
       "bzImage or vmlinux; required to boot")("initrd", text(o.machine.initrd)->value_name("PATH"),
                                               "initial RAM disk")(
          "append", text(o.machine.append)->value_name("WORDS"),
          "added to the kernel's command line; a later word wins")(
          "mem", text(o.machine.memory)->value_name("SIZE"), "memory, 64M or more (512M)")(
          "cpus", text(o.machine.cpus)->value_name("N"), "vCPUs, each on its own thread (1)")(
          "disk", po::value(&o.machine.disks)->composing()->value_name("PATH[,KEY...]"),
          "a disk; the first one is the root by default; keys below")(
          "net", po::value(&o.machine.nets)->composing()->value_name("KIND[,KEY...]"),
          "a network card: user, tap=NAME, fd=N or socket=PATH; keys below")(
          "vsock", text(o.machine.vsock)->value_name("PATH[,cid=N]"),
          "host connects to PATH, the guest to PATH_PORT")(
          "balloon", flag(o.machine.balloon, true),
          "memory that the guest frees goes back to the host")(
          "rng", flag(o.machine.rng, true),
          "the host's random numbers, for a guest whose processor has none")(
          "serial", text(o.machine.serial)->value_name("WHERE"),
          "console: stdio, none, pty, file:PATH or socket:PATH (stdio)")(
          "name", text(o.machine.name)->value_name("TEXT"), "shown in its status")(
          "no-reboot", flag(o.machine.reboot, false), "end when the guest resets")(
          "restore", po::value(&o.restore)->value_name("PATH"),
          "go on from a snapshot, directory or exported file;\n"
          "--net, --vsock, --serial, --name override what it says;\n"
          "--disk PATH keeps there, in a new qcow2 image over the\n"
          "snapshot's, what the machine writes to its disk")(
          "paused", po::bool_switch(&o.paused), "do not run before `vmm ctl SOCKET resume`");
  po::options_description program("The program");
  program.add_options()  //
      ("control", text(o.machine.control)->value_name("PATH"), "socket for `vmm ctl`")(
          "config", po::value(&o.config_file)->value_name("FILE"),
          "JSON with the same words; options override it")(
          "print-config", po::bool_switch(&o.print_config), "print that JSON and exit")(
          "ready-fd", po::value(&o.ready_fd)->value_name("N"),
          "write a line to this descriptor when the guest runs, and close it")(
          "dry-run", po::bool_switch(&o.dry_run), "open everything, start nothing")(
          arch::kTablesOption, po::value(&o.dump_tables)->value_name("FILE"),
          "write what the guest's firmware would tell of the machine, start nothing")(
          "log-level", po::value(&o.log_level)->value_name("LEVEL"),
          "trace, debug, info, warn, error or off (warn)")(
          "log-file", po::value(&o.log_file)->value_name("PATH"), "instead of standard error")(
          "version", po::bool_switch(&o.version), "print the version and exit")(
          "help", po::bool_switch(&o.help), "print this and exit");
  machine.add(program);
  return machine;
}

std::vector<std::string_view> names_of(const po::options_description& description) {
  std::vector<std::string_view> names;
  for (const auto& option : description.options()) names.push_back(option->long_name());
  return names;
}

Result<BootOptions> parse(Arguments arguments) {
  BootOptions options;
  const auto description = describe(options);
  try {
    namespace style = po::command_line_style;
    auto parser =
        po::command_line_parser(std::vector<std::string>(arguments.begin(), arguments.end()));
    const auto parsed =
        parser.options(description)
            .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
            .run();
    for (const auto& option : parsed.options) {
      if (option.position_key < 0) continue;
      return fail("'{}' belongs to no option; `vmm --help` lists them", option.value.at(0));
    }
    po::variables_map values;
    po::store(parsed, values);
    po::notify(values);
  } catch (const po::unknown_option& error) {
    std::string name = error.get_option_name();
    name.erase(0, name.find_first_not_of('-'));
    const auto names = names_of(description);
    const auto nearest = nearest_name(name, names);
    return fail("unknown option '--{}'{}", name,
                nearest.empty() ? std::string() : fmt::format(" (did you mean '--{}'?)", nearest));
  } catch (const po::error& error) {
    return fail("{}", error.what());
  }
  return options;
}

Result<MachineOptions> merge(const BootOptions& options) {
  MachineOptions merged;
  if (!options.config_file.empty()) merged = TRY(config::read_config_file(options.config_file));
  merged.override_with(options.machine);
  return merged;
}

// A guest may hold a thousand vsock connections; the usual soft limit is as low.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);  // what there is must do
}

Result<void> write_file(const std::string& path, std::span<const std::byte> bytes) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return fail_errno("cannot write '{}'", path);
  if (const auto written = write_all(file.get(), bytes); !written) {
    return fail("cannot write '{}': {}", path, written.error().message());
  }
  return {};
}

Result<int> run(const BootOptions& options) {
  TRY(log::configure(TRY(log::parse_level(options.log_level)), options.log_file));
  auto machine = TRY(merge(options));
  Session::Start start{.begin = options.paused ? Begin::paused : Begin::running};
  MachineConfig config;
  if (options.restore.empty()) {
    config = TRY(config::to_config(machine));
  } else {
    start.snapshot = TRY(snapshot::open_source(options.restore));
    const auto disk_copies = machine.disks;
    machine = TRY(config::restored_options(*start.snapshot, machine));
    config = TRY(config::restored_config(*start.snapshot, machine, disk_copies));
  }
  // Snapshots are asked for through the socket: without one, nobody needs the text.
  if (!config.control.empty()) start.config_text = config::to_json_text(machine);
  if (!options.dump_tables.empty() && !options.restore.empty()) {
    return fail("--{} is for a machine that boots, not for one that is restored",
                arch::kTablesOption);
  }
  if (options.ready_fd >= 0) {
    if (::fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC) < 0) {
      return fail("--ready-fd: {} is not an open descriptor", options.ready_fd);
    }
    start.ready = UniqueFd(options.ready_fd);
  }
  if (options.print_config) {
    fmt::print("{}\n", config::to_json_text(machine));
    return 0;
  }
  // One arena: a thread's own costs pages, and no thread here allocates much.
  ::mallopt(M_ARENA_MAX, 1);
  raise_descriptor_limit();
  const auto session = TRY(Session::create(config, std::move(start)));
  if (!options.dump_tables.empty()) {
    TRY(write_file(options.dump_tables, TRY(arch::firmware_tables(session->machine().memory()))));
    return 0;
  }
  if (!options.dry_run) return session->run();
  TRY(session->check_start());
  return 0;
}

}  // namespace

int boot(Arguments arguments) {
  const auto options = parse(arguments);
  if (!options) return refuse(options.error().message());
  if (options->help) {
    fmt::print("{}", boot_help());
    return 0;
  }
  if (options->version) {
    fmt::print("vmm {}\n", VMM_VERSION);
    return 0;
  }
  const auto code = run(*options);
  return code ? *code : refuse(code.error().message());
}

std::string boot_help() {
  BootOptions unused;
  std::ostringstream text;
  text << "Usage: vmm --kernel PATH [--disk PATH]... [OPTION]...\n\n"
          "Boots a Linux guest; its console is this terminal (Ctrl-A h lists the keys).\n\n"
       << describe(unused) << "\nKeys of --disk:\n"
       << config::describe_disk_option()
       << "\nKeys of --net:\n"
          "      mac=ADDRESS             made up when not given\n"
          "      mtu=N                   told to the guest\n"
          "      queues=N                of a tap, one thread each\n"
          "      vhost=auto|on|off       of a tap: served by the host's kernel\n"
          "      hostfwd=PROTO:[ADDR]:PORT-[ADDR]:PORT\n"
          "                              of user: a port of the host that reaches the guest\n"
          "      network=A.B.C.D/N, dns=ADDR, gateway=ADDR, hostname=TEXT,\n"
          "      ipv6=on|off, loopback=on|off, restrict=on|off\n"
          "                              of user: what the guest's network is like\n"
          "\nExit codes: 0 the guest powered off, 1 it did not start, 2 its kernel panicked,\n"
          "3 triple fault, 4 the host could not go on, 5 it was ended.\n";
  return text.str();
}

}  // namespace vmm::cli
