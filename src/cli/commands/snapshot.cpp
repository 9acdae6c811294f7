// vmm snapshot COMMAND: what there is to do with saved machines while none runs.
#include <boost/program_options.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/snapshot_report.h"
#include "src/cli/commands/words.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/remove.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;

struct Words {
  std::vector<std::string> names;  // directories and files
  std::vector<std::string> bases;
  std::string since;
  bool json = false;
};

enum : unsigned { kJson = 1, kBase = 2, kSince = 4 };

struct Subcommand {
  std::string_view name;
  std::string_view form;  // of its names
  std::string_view summary;
  unsigned options;
  std::size_t least, most;  // names
  Result<void> (*run)(const Words&);
};

bool is_directory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

Result<std::unique_ptr<snapshot::Reader>> open_any(const std::string& directory,
                                                   snapshot::Verify verify) {
  return snapshot::Reader::open(directory, verify, snapshot::Hosts::any);
}

Result<void> ls(const Words& words) {
  const auto entries = TRY(snapshot::list(words.names.empty() ? "." : words.names[0]));
  fmt::print("{}", words.json ? json_of(entries) : table_of(entries));
  return {};
}

Result<void> inspect(const Words& words) {
  const auto& path = words.names[0];
  if (is_directory(path) && !words.bases.empty()) {
    return fail("--base goes with an archive, '{}' is a directory", path);
  }
  const auto report =
      TRY(is_directory(path) ? report_directory(path) : report_archive(path, words.bases));
  fmt::print("{}", words.json ? json_of(report) : words_of(report));
  return {};
}

Result<void> verify(const Words& words) {
  const auto& path = words.names[0];
  if (!is_directory(path)) {
    TRY(snapshot::verify_archive(path, words.bases));
  } else if (!words.bases.empty()) {
    return fail("--base goes with an archive, '{}' is a directory", path);
  } else {
    TRY(open_any(path, snapshot::Verify::all));
  }
  fmt::print("{}: whole\n", path);
  return {};
}

Result<void> rm(const Words& words) { return snapshot::remove(words.names[0]); }

Result<void> merge(const Words& words) {
  const auto reader = TRY(open_any(words.names[0], snapshot::Verify::sealed));
  const auto digest = TRY(snapshot::merge(*reader, words.names[1]));
  fmt::print("{}: {}\n", words.names[1], digest);
  return {};
}

Result<void> pack(const Words& words) {
  if (words.since.empty() && !words.bases.empty()) {
    return fail("--base goes with --since: it names what that archive builds on");
  }
  const auto reader = TRY(open_any(words.names[0], snapshot::Verify::sealed));
  const auto made =
      TRY(snapshot::export_snapshot(*reader, words.names[1], {words.since, words.bases}));
  fmt::print("{}: {}, {} of {} pages stored, {}\n", words.names[1], made.digest, made.stored,
             made.pages, in_words(made.bytes));
  return {};
}

Result<void> unpack(const Words& words) {
  const auto digest = TRY(snapshot::import_archive(words.names[0], words.names[1], words.bases));
  fmt::print("{}: {}\n", words.names[1], digest);
  return {};
}

constexpr std::array<Subcommand, 7> kSubcommands = {{
    {"ls", "[DIR] [--json]", "the snapshots in a directory", kJson, 0, 1, &ls},
    {"inspect", "DIR|ARCHIVE [--json]", "what one consists of", kJson | kBase, 1, 1, &inspect},
    {"verify", "DIR|ARCHIVE", "read all of it and compare", kBase, 1, 1, &verify},
    {"rm", "DIR", "remove it, unless others beside it build on it", 0, 1, 1, &rm},
    {"merge", "DIR NEW", "make a complete one of it and its parents", 0, 2, 2, &merge},
    {"export", "DIR FILE", "pack it into one file, no page twice", kBase | kSince, 2, 2, &pack},
    {"import", "FILE DIR", "unpack it again", kBase, 2, 2, &unpack},
}};

po::options_description describe(const Subcommand& command, Words& words) {
  po::options_description options;
  auto add = options.add_options();
  if ((command.options & kJson) != 0) add("json", po::bool_switch(&words.json), "as JSON");
  if ((command.options & kBase) != 0) {
    add("base", po::value(&words.bases)->composing(), "an archive that it builds on");
  }
  if ((command.options & kSince) != 0) {
    add("since", po::value(&words.since), "store what this archive lacks");
  }
  return options;
}

}  // namespace

std::string snapshot_help() {
  std::string text =
      "Usage: vmm snapshot COMMAND\n\n"
      "Handles the directories that `vmm ctl SOCKET snapshot DIR` makes, and archives of them.\n\n";
  for (const auto& command : kSubcommands) {
    text += fmt::format("  {:<32}{}\n", fmt::format("{} {}", command.name, command.form),
                        command.summary);
  }
  return text +
         "\nOptions:\n"
         "  --json           of ls and inspect: for programs\n"
         "  --since ARCHIVE  of export: store only what ARCHIVE lacks; import needs it then\n"
         "  --base ARCHIVE   of import, verify, inspect: what the archive builds on; of export:\n"
         "                   what the one of --since builds on; once for each\n\n"
         "Exit codes: 0 done, 1 not done, and nothing is left of it.\n";
}

int snapshot_command(Arguments arguments) {
  if (arguments.empty()) {
    return refuse("snapshot takes a command: vmm snapshot ls; `vmm help snapshot` lists them");
  }
  if (asks_for_help(arguments)) {
    fmt::print("{}", snapshot_help());
    return 0;
  }
  const auto command = std::ranges::find(kSubcommands, arguments[0], &Subcommand::name);
  if (command == kSubcommands.end()) {
    std::array<std::string_view, kSubcommands.size()> names;
    std::ranges::transform(kSubcommands, names.begin(), &Subcommand::name);
    return refuse(fmt::format("snapshot has no command '{}'{}; `vmm help snapshot` lists them",
                              arguments[0], did_you_mean(arguments[0], names)));
  }
  Words words;
  const auto options = describe(*command, words);
  const auto full_name = fmt::format("snapshot {}", command->name);
  auto names = parse_words({full_name, command->form, command->least, command->most}, options,
                           arguments.subspan(1));
  if (!names) return refuse(names.error().message());
  words.names = std::move(*names);
  const auto result = command->run(words);
  return result ? 0 : refuse(result.error().message());
}

}  // namespace vmm::cli
