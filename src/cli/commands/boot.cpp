// vmm --kernel bzImage --disk root.img --mem 2G
#include "arch/boot.h"

#include <boost/program_options.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include "src/base/child.h"
#include "src/base/log.h"
#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/words.h"
#include "src/cli/config/given_machine.h"
#include "src/cli/config/restored_machine.h"
#include "src/hypervisor/session/session.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;
// What the command line says.
struct BootOptions {
  std::vector<std::pair<std::string, std::string>> machine;  // keys and words of its options
  std::string config_file;
  std::string restore, resume;
  std::string dump_tables;
  int ready_fd = -1;
  std::string log_level = "warn";
  std::string log_file;
  bool print_config = false, dry_run = false, help = false, version = false;
  bool paused = false;
};

constexpr std::string_view kControl = "control";

// The option of a key: what is on by itself is turned off by --no-KEY.
void add_option(po::options_description& options, BootOptions& o, const spec::Field& field) {
  const std::string key(field.key.name);
  const std::string help(field.key.help), form(field.key.form);
  auto option = options.add_options();
  if (field.item.type == spec::Type::toggle) {
    const bool is_on = *field.item.get().as<bool>();
    option((is_on ? "no-" + key : key).c_str(),
           po::bool_switch()->notifier([&o, key, is_on](bool given) {
             if (given) o.machine.emplace_back(key, is_on ? "off" : "on");
           }),
           help.c_str());
  } else if (field.item.type == spec::Type::list) {
    using Words = std::vector<std::string>;
    option(key.c_str(),
           po::value<Words>()
               ->composing()
               ->notifier([&o, key](const Words& words) {
                 for (const auto& word : words) o.machine.emplace_back(key, word);
               })
               ->value_name(form),
           help.c_str());
  } else {
    option(key.c_str(),
           po::value<std::string>()
               ->notifier([&o, key](const std::string& word) { o.machine.emplace_back(key, word); })
               ->value_name(form),
           help.c_str());
  }
}

po::options_description describe_machine(BootOptions& o) {
  po::options_description options;
  MachineConfig unused;
  const auto fields = fields_of(unused);
  for (const auto& field : fields.all()) {
    if (field.key.name != kControl) add_option(options, o, field);
  }
  auto option = options.add_options();
  option("restore", po::value(&o.restore)->value_name("PATH"),
         "go on from a snapshot, a directory or an exported file; see below");
  option("resume", po::value(&o.resume)->value_name("PATH"),
         "go on as the same machine, connected to what it was; see below");
  option("paused", po::bool_switch(&o.paused), "do not run before `vmm ctl SOCKET resume`");
  return options;
}

po::options_description describe_program(BootOptions& o) {
  po::options_description options;
  MachineConfig unused;
  const auto fields = fields_of(unused);
  add_option(options, o, *fields.find(kControl));
  auto option = options.add_options();
  option("config", po::value(&o.config_file)->value_name("FILE"),
         "JSON with the same words; options override it, --disk and --net add to its own");
  option("print-config", po::bool_switch(&o.print_config), "print that JSON and exit");
  option("ready-fd", po::value(&o.ready_fd)->value_name("N"),
         "write a line to this descriptor when the guest runs, and close it");
  option("dry-run", po::bool_switch(&o.dry_run), "open everything, start nothing");
  option(arch::kTablesOption, po::value(&o.dump_tables)->value_name("FILE"),
         "write what the firmware would tell the guest about the machine, start nothing");
  option("log-level", po::value(&o.log_level)->value_name("trace|debug|info|warn|error|off"),
         "how much is logged (warn)");
  option("log-file", po::value(&o.log_file)->value_name("PATH"),
         "log there instead of to standard error");
  option("version", po::bool_switch(&o.version), "print the version and exit");
  option("help,h", po::bool_switch(&o.help), "print this and exit");
  return options;
}

std::vector<std::string_view> names_of(const po::options_description& description) {
  std::vector<std::string_view> names;
  for (const auto& option : description.options()) names.push_back(option->long_name());
  return names;
}

// What other monitors call it, or the nearest name.
std::string_view nearest_option(std::string_view name, std::span<const std::string_view> names) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kElsewhere = {
      {{"memory", "mem"},
       {"ram", "mem"},
       {"smp", "cpus"},
       {"vcpus", "cpus"},
       {"drive", "disk"},
       {"cmdline", "append"},
       {"netdev", "net"},
       {"console", "serial"}}};
  for (const auto& [other, ours] : kElsewhere) {
    if (other == name) return ours;
  }
  return nearest_name(name, names);
}

// "unknown option '--kernl' (did you mean '--kernel'?)"
std::string unknown_option(std::string name, Arguments arguments,
                           std::span<const std::string_view> names) {
  if (!name.starts_with('-')) name.insert(0, "--");
  if (!name.starts_with("--")) {  // the first letter of a word such as -kernel
    const auto word = std::ranges::find_if(
        arguments, [&name](const auto& argument) { return argument.starts_with(name); });
    if (word != arguments.end()) name = *word;
  }
  const auto nearest = nearest_option(name.substr(name.find_first_not_of('-')), names);
  return fmt::format("unknown option '{}'{}", name,
                     nearest.empty() ? "" : fmt::format(" (did you mean '--{}'?)", nearest));
}

Result<BootOptions> parse(Arguments arguments) {
  TRY(refuse_empty_values(arguments));
  BootOptions options;
  po::options_description description;
  description.add(describe_machine(options)).add(describe_program(options));
  try {
    namespace style = po::command_line_style;
    auto parser =
        po::command_line_parser(std::vector<std::string>(arguments.begin(), arguments.end()));
    const auto parsed =
        parser.options(description)
            .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next |
                   style::allow_short | style::allow_dash_for_short | style::short_allow_next)
            .run();
    for (const auto& option : parsed.options) {
      if (option.position_key < 0) continue;
      return fail("unexpected word '{}'; `vmm --help` lists the options", option.value.at(0));
    }
    po::variables_map values;
    po::store(parsed, values);
    po::notify(values);
  } catch (const po::unknown_option& error) {
    return fail("{}", unknown_option(error.get_option_name(), arguments, names_of(description)));
  } catch (const po::error& error) {
    return fail("{}", error.what());
  }
  return options;
}

Result<config::GivenMachine> given_machine(const BootOptions& options) {
  config::GivenMachine given;
  if (!options.config_file.empty()) TRY(take_file(given, options.config_file));
  for (const auto& [key, word] : options.machine) TRY(take_option(given, key, word));
  return given;
}

Result<void> write_file(const std::string& path, std::span<const std::byte> bytes) {
  // A FIFO that nobody reads is an error: signals are not heard here.
  const UniqueFd file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0644));
  if (!file) return fail_errno("cannot write '{}'", path);
  if (const auto written = write_all(file.get(), bytes); !written) {
    return fail("cannot write '{}': {}", path, written.error().message());
  }
  return {};
}

Result<int> run(const BootOptions& options) {
  TRY(log::configure(TRY(log::parse_level(options.log_level)), options.log_file));
  const auto given = TRY(given_machine(options));
  Session::Start start{.begin = options.paused ? Begin::paused : Begin::running};
  MachineConfig config;
  std::vector<std::string> unconnected;
  const bool resumes = !options.resume.empty();
  if (resumes && !options.restore.empty()) return fail("--restore and --resume do not go together");
  if (!resumes && options.restore.empty()) {
    config = TRY(to_machine(given));
  } else {
    start.snapshot = TRY(snapshot::open_source(resumes ? options.resume : options.restore));
    auto restored = TRY(config::restored_machine(*start.snapshot, given,
                                                 resumes ? config::As::same : config::As::copy));
    config = std::move(restored.config);
    unconnected = std::move(restored.unconnected);
    start.attached = std::move(restored.attached);
    start.kernel = std::move(restored.kernel);
    start.initrd = std::move(restored.initrd);
  }
  if (!options.dump_tables.empty() && start.snapshot) {
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
    fmt::print("{}\n", TRY(config::to_json_text(config)));
    return 0;
  }
  // Snapshots are asked for through the socket: without one, nobody needs the texts.
  if (!config.control.empty()) start.texts_of = config::to_manifest_texts;
  // One arena: a thread's own costs pages, and no thread here allocates much.
  ::mallopt(M_ARENA_MAX, 1);
  raise_descriptor_limit();  // a guest may hold a thousand vsock connections
  // What was handed over (the queues of a tap) is for this process and none that it starts.
  (void)::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  const auto session = TRY(Session::create(config, std::move(start)));
  if (!unconnected.empty()) {
    fmt::print(stderr, "vmm: not connected, as only the snapshot names it: {}\n",
               fmt::join(unconnected, ", "));
  }
  if (!options.dump_tables.empty()) {
    TRY(write_file(options.dump_tables, TRY(arch::firmware_tables(session->machine().memory()))));
    return 0;
  }
  if (!options.dry_run) return session->run();
  TRY(session->check_start());
  return 0;
}

// The keys of a component. Its kinds stand in the option's own form.
Section section_of(std::string title, const spec::Fields& fields) {
  Section section{.title = std::move(title), .paragraphs = {}, .rows = {}};
  for (const auto& [key, item] : fields.all()) {
    if (key.form.empty() || key.lead == spec::Lead::kind) continue;
    section.rows.push_back({std::string(key.form), std::string(key.help)});
  }
  return section;
}

// What the options' own texts have no room for.
std::vector<Section> boot_sections() {
  return {
      {"With --restore",
       {"Nothing of the host is used because the snapshot names it. These options connect the "
        "machine:"},
       {{"--net, --vsock",
         "connect its cards and vsock device; without them a card of kind user works, its "
         "published ports and the host's loopback left out, other cards have no link"},
        {"--serial", "its console, this terminal if not given"},
        {"--kernel, --initrd",
         "what a guest that resets boots; else what it booted before, which the snapshot has"},
        {"--disk PATH",
         "keeps there, in a new qcow2 image over the snapshot's, what the machine writes to its "
         "disk; once for each"},
        {"--disk blkN=PATH[,format=raw|qcow2]",
         "a read-only disk that the snapshot has no copy of"},
        {"--disk blkN=PATH[,KEY...]",
         "what is in a slot (size=SIZE), whatever was in it; with format, scratch, direct and io, "
         "and with rw where only a snapshot that this user did not save on this host says that its "
         "guest may write to it"},
        {"--pmem",
         "the files that it had as persistent memory, which the snapshot has no copy of, once for "
         "each; what is in a slot (size=SIZE)"},
        {"--name", "its name, the snapshot's if not given"}}},
      {"With --resume",
       {"The machine is the one that was saved: its network cards, vsock device, console, control "
        "socket, kernel and disks are those that it had, and options above replace them. Only of a "
        "snapshot that this user saved on this host, and while its disks are as they were then; "
        "`vmm ctl SOCKET snapshot PATH --stop` saves a machine so."},
       {}},
      {"Signals",
       {"SIGTERM and SIGINT press the guest's power button. A second one, or 30 seconds, end the "
        "machine."},
       {},
       Section::In::manual},
      {"Environment",
       {},
       {{"XDG_CACHE_HOME", "the directory in which unpacked kernels are kept (~/.cache)"},
        {"VMM_LIBEXEC",
         "the directory of the programs that `vmm` starts: vmm-net, of networks of "
         "kind user, and vmm-engine, of containers and images"},
        {"VMM_ROOT",
         "the directory of images and containers (/var/lib/vmm for root, else "
         "$XDG_DATA_HOME/vmm, which is ~/.local/share/vmm)"},
        {"VMM_MACHINE",
         "the directory with `kernel` and `initramfs` of the machines of containers "
         "(share/vmm/machine beside the program's directory)"},
        {"VMM_MONITOR", "the program that is started for a container's machine (`vmm` itself)"}},
       Section::In::manual},
      {"Exit status",
       {},
       {{"0", "the guest powered off (or reset, with --no-reboot)"},
        {"1", "the machine did not start; one sentence on standard error says why"},
        {"2", "the guest's kernel panicked"},
        {"3", "the guest's processor shut down (triple fault)"},
        {"4",
         "the host's KVM or the program could not go on, or the file that the machine runs "
         "from is damaged"},
        {"5",
         "the machine was ended: by a second signal, the deadline, `vmm ctl SOCKET stop` or "
         "Ctrl-A x"}}},
      {"Examples",
       {},
       {{"vmm --kernel vmlinuz --initrd initramfs.gz --disk root.img --mem 2G --net user",
         "boots a guest on this terminal."},
        {"vmm --kernel vmlinuz --disk root.img --control /tmp/vm",
         "can be talked to: `vmm ctl /tmp/vm status`."},
        {"vmm ctl /tmp/vm snapshot seeded --live", "saves it while it runs on."},
        {"vmm --restore seeded", "goes on from there, as often as you like."}},
       Section::In::manual},
  };
}

}  // namespace

int boot(Arguments arguments) {
  const auto options = parse(arguments);
  if (!options) return refuse(options.error().message());
  if (options->help) {
    print_help({});
    return 0;
  }
  if (options->version) {
    fmt::print("vmm {}\n", VMM_VERSION);
    return 0;
  }
  const auto code = run(*options);
  return code ? *code : refuse(code.error().message());
}

Page boot_page() {
  BootOptions unused;
  Page page;
  page.name = "vmm";
  page.forms = {"--kernel PATH [OPTION]...", "--restore PATH [OPTION]...",
                "--resume PATH [OPTION]...", "COMMAND [ARGUMENT]..."};
  page.summary = "virtual machines that are as easy to handle as containers";
  page.description = {
      "Boots a Linux guest, or goes on from a snapshot of one. Its console is this terminal "
      "(Ctrl-A h lists the keys). Needs /dev/kvm, and no root."};
  page.groups = {group_of("The machine", describe_machine(unused)),
                 group_of("The program", describe_program(unused))};
  MachineConfig machine;
  for (const auto& kind : device_kinds()) {
    if (kind.keys == nullptr) continue;
    spec::Fields options("machine");
    kind.declare(machine, options);
    auto keys =
        section_of(fmt::format("Keys of --{}", options.all().front().key.name), kind.keys(machine));
    if (page.sections.empty()) {
      keys.paragraphs = {
          "A comma in a value is written twice, here and below. A machine has 31 disks, network "
          "cards and other devices at most."};
    }
    page.sections.push_back(std::move(keys));
  }
  std::ranges::move(boot_sections(), std::back_inserter(page.sections));
  return page;
}

}  // namespace vmm::cli
