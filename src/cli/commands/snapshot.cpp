// vmm snapshot COMMAND: what there is to do with saved machines while none runs.
#include <boost/program_options.hpp>
#include <fmt/core.h>

#include <array>
#include <filesystem>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/long_work.h"
#include "src/cli/commands/snapshot_report.h"
#include "src/cli/commands/subcommand.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/prune.h"
#include "src/hypervisor/snapshot/remove.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;

struct Words {
  std::vector<std::string> names;  // directories and files
  std::vector<std::string> bases;
  std::string since;
  std::string progress = "auto";
  bool json = false;
};

bool is_directory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

Result<std::unique_ptr<snapshot::Reader>> open_any(const std::string& directory,
                                                   snapshot::Verify verify, Progress& progress) {
  return snapshot::Reader::open(directory, verify, snapshot::Hosts::any, progress);
}

Result<int> ls(const Words& words) {
  const auto entries = TRY(snapshot::list(words.names[0]));
  fmt::print("{}", words.json ? json_of(entries) : table_of(entries));
  return 0;
}

Result<int> inspect(const Words& words) {
  const auto& path = words.names[0];
  if (is_directory(path) && !words.bases.empty()) {
    return fail("--base goes with an archive, '{}' is a directory", path);
  }
  const auto report =
      TRY(is_directory(path) ? report_directory(path) : report_archive(path, words.bases));
  fmt::print("{}", words.json ? json_of(report) : words_of(report));
  return 0;
}

Result<int> verify(const Words& words) {
  const auto& path = words.names[0];
  const bool archive = !is_directory(path);
  if (!archive && !words.bases.empty()) {
    return fail("--base goes with an archive, '{}' is a directory", path);
  }
  const auto read_all = [&](Progress& progress) -> Result<void> {
    if (archive) {
      TRY(snapshot::verify_archive(path, words.bases, progress));
    } else {
      TRY(open_any(path, snapshot::Verify::all, progress));
    }
    return {};
  };
  TRY(run_long(words.progress, fmt::format("'{}' was not read to its end", path), read_all));
  fmt::print("{}: whole\n", path);
  return 0;
}

Result<int> rm(const Words& words) {
  TRY(snapshot::remove(words.names[0]));
  return 0;
}

Result<int> prune(const Words& words) {
  const auto pruned = TRY(snapshot::prune(words.names.empty() ? "." : words.names[0]));
  for (const auto& name : pruned.removed) fmt::print("{}: removed\n", name);
  for (const auto& name : pruned.in_use) fmt::print("{}: being saved, not removed\n", name);
  for (const auto& text : pruned.refused) fmt::print(stderr, "vmm: {}\n", text);
  return pruned.refused.empty() ? 0 : 1;
}

Result<int> merge(const Words& words) {
  const auto& target = words.names[1];
  const auto work = [&](Progress& progress) -> Result<std::string> {
    const auto reader = TRY(open_any(words.names[0], snapshot::Verify::sealed, progress));
    return snapshot::merge(*reader, target, progress);
  };
  const auto digest =
      TRY(run_long(words.progress, fmt::format("'{}' was not created", target), work));
  fmt::print("{}: {}\n", target, digest);
  return 0;
}

Result<int> pack(const Words& words) {
  if (words.since.empty() && !words.bases.empty()) {
    return fail("--base goes with --since: it names what that archive builds on");
  }
  const auto& target = words.names[1];
  const auto work = [&](Progress& progress) -> Result<snapshot::Exported> {
    const auto reader = TRY(open_any(words.names[0], snapshot::Verify::sealed, progress));
    return snapshot::export_snapshot(*reader, target, {words.since, words.bases}, progress);
  };
  const auto made =
      TRY(run_long(words.progress, fmt::format("'{}' was not created", target), work));
  fmt::print("{}: {}, {} of {} pages stored, {}\n", target, made.digest, made.stored, made.pages,
             size_in_words(made.bytes));
  return 0;
}

Result<int> unpack(const Words& words) {
  const auto& target = words.names[1];
  const auto work = [&](Progress& progress) {
    return snapshot::import_archive(words.names[0], target, words.bases, progress);
  };
  const auto digest =
      TRY(run_long(words.progress, fmt::format("'{}' was not created", target), work));
  fmt::print("{}: {}\n", target, digest);
  return 0;
}

void describe_json(po::options_description& options, Words& words) {
  options.add_options()("json", po::bool_switch(&words.json), "as JSON");
}

void describe_progress(po::options_description& options, Words& words) {
  options.add_options()("progress", po::value(&words.progress)->value_name("auto|plain|none"),
                        kProgressHelp);
}

void describe_base(po::options_description& options, Words& words) {
  options.add_options()("base", po::value(&words.bases)->composing()->value_name("ARCHIVE"),
                        "what the archive builds on; once for each");
}

void describe_inspect(po::options_description& options, Words& words) {
  describe_json(options, words);
  describe_base(options, words);
}

void describe_unpacking(po::options_description& options, Words& words) {
  describe_base(options, words);
  describe_progress(options, words);
}

void describe_export(po::options_description& options, Words& words) {
  options.add_options()("since", po::value(&words.since)->value_name("ARCHIVE"),
                        "store only what ARCHIVE lacks; import needs it then")(
      "base", po::value(&words.bases)->composing()->value_name("ARCHIVE"),
      "what the one of --since builds on; once for each");
  describe_progress(options, words);
}

constexpr std::array<Subcommand<Words>, 8> kSubcommands = {{
    {"ls", "DIR", "the snapshots in a directory, or (without DIR) of containers", 1, 1,
     &describe_json, &ls},
    {"inspect", "DIR|ARCHIVE", "what one consists of", 1, 1, &describe_inspect, &inspect},
    {"verify", "DIR|ARCHIVE", "read all of it and compare", 1, 1, &describe_unpacking, &verify},
    {"rm", "DIR", "remove it, unless others beside it build on it", 1, 1, nullptr, &rm},
    {"prune", "[DIR]", "remove what killed saves left in a directory", 0, 1, nullptr, &prune},
    {"merge", "DIR NEW", "make a complete one of it and its parents", 2, 2, &describe_progress,
     &merge},
    {"export", "DIR FILE", "pack it into one file, no page twice", 2, 2, &describe_export, &pack},
    {"import", "FILE DIR", "unpack it again", 2, 2, &describe_unpacking, &unpack},
}};

constexpr Group<Words> kGroup = {"snapshot", "",
                                 "save containers; list, check, merge, remove, pack what was saved",
                                 kSubcommands};

}  // namespace

Page snapshot_page() {
  Page page = page_of(kGroup);
  page.description = {
      "Handles the directories that `vmm ctl SOCKET snapshot DIR` makes, and archives of them; and "
      "snapshots of containers, which `vmm snapshot create CONTAINER NAME` makes and `vmm run "
      "--from "
      "NAME` goes on from.",
      "Those of containers have names, without a slash. For `rm` such a word is always one, for "
      "`inspect` unless a file here is called so: `./NAME` is the file."};
  page.sections = {
      {"Exit codes", {}, {{"0", "done"}, {"1", "not done, and nothing is left of it"}}}};
  return page;
}

int snapshot_command(Arguments arguments) { return run_subcommand(kGroup, arguments); }

}  // namespace vmm::cli
