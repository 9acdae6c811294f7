// vmm disk create|convert|info|check|commit|resize|rebase|compare ...
#include <boost/program_options.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <array>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/long_work.h"
#include "src/cli/commands/subcommand.h"
#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/commit.h"
#include "src/disk/qcow2/compare.h"
#include "src/disk/qcow2/convert.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_info.h"
#include "src/disk/qcow2/probe.h"
#include "src/disk/qcow2/rebase.h"
#include "src/disk/qcow2/resize.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;
namespace qcow2 = disk::qcow2;
using vmm::disk::ImageFormat;

// Exit codes of `check` and `compare`, those of qemu-img.
constexpr int kCorrupt = 2;
constexpr int kLeaks = 3;
constexpr int kDiffers = 1;
constexpr int kNotCompared = 2;

// The words of all subcommands; each takes those that it describes.
struct Words {
  std::vector<std::string> names;  // files, a size
  std::string format, source_format, second_format;
  std::string backing, backing_format, cluster_size, compress;
  std::string progress = "auto";
  bool repair = false, json = false, shrink = false, unsafe = false;
};

po::typed_value<std::string>* text(std::string& target, const char* name) {
  return po::value(&target)->value_name(name);
}

void describe_progress(po::options_description& options, Words& words) {
  options.add_options()("progress", text(words.progress, "auto|plain|none"), kProgressHelp);
}

Result<ImageFormat> format_or(std::string_view option, const std::string& word,
                              ImageFormat otherwise) {
  if (word.empty()) return otherwise;
  auto format = qcow2::parse_format(word);
  if (!format) return fail("{}: {}", option, format.error().message());
  return format;
}

Result<qcow2::Compression> parse_compression(const std::string& word) {
  if (word == "zlib") return qcow2::Compression::zlib;
  if (word == "zstd") return qcow2::Compression::zstd;
  return fail("--compress: invalid value '{}': expected zlib or zstd", word);
}

Result<std::uint64_t> size_of(std::string_view what, const std::string& word) {
  auto size = parse_size(word);
  if (!size) return fail("{}: {}", what, size.error().message());
  return size;
}

// ---- create

void describe_create(po::options_description& options, Words& words) {
  options.add_options()  //
      ("format", text(words.format, "raw|qcow2"), "what to make (qcow2)")(
          "backing", text(words.backing, "FILE"),
          "has what the new image does not; relative to its directory")(
          "backing-format", text(words.backing_format, "raw|qcow2"),
          "of the backing file; by default its first bytes tell")(
          "cluster-size", text(words.cluster_size, "N"), "512 to 2M, a power of two (64K)");
}

Result<int> create(const Words& words) {
  qcow2::CreateOptions options;
  options.path = words.names[0];
  if (words.names.size() > 1) {
    options.size = TRY(size_of("size", words.names[1]));
    if (options.size == 0)
      return fail("invalid size '{}': expected at least 512 bytes", words.names[1]);
  } else if (words.backing.empty()) {
    return fail("a size is missing: expected vmm disk create {} SIZE; see `vmm disk --help`",
                options.path);
  }
  options.format = TRY(format_or("--format", words.format, ImageFormat::qcow2));
  options.backing_path = words.backing;
  if (!words.backing_format.empty()) {
    if (words.backing.empty()) return fail("--backing-format goes with --backing FILE");
    options.backing_format =
        TRY(format_or("--backing-format", words.backing_format, ImageFormat::automatic));
  }
  if (!words.cluster_size.empty()) {
    if (options.format == ImageFormat::raw) return fail("--cluster-size: a raw disk has none");
    options.cluster_size = TRY(size_of("--cluster-size", words.cluster_size));
  }
  TRY(qcow2::create_image(options));
  return 0;
}

// ---- convert

void describe_convert(po::options_description& options, Words& words) {
  options.add_options()  //
      ("format", text(words.format, "raw|qcow2"), "of the target (qcow2)")(
          "source-format", text(words.source_format, "raw|qcow2"),
          "of the source; by default its first bytes tell")(
          "compress", text(words.compress, "zlib|zstd"), "compress a qcow2 target")(
          "cluster-size", text(words.cluster_size, "N"), "512 to 2M, a power of two (64K)");
  describe_progress(options, words);
}

Result<int> convert(const Words& words) {
  qcow2::ConvertOptions options;
  options.source = words.names[0];
  options.target = words.names[1];
  options.source_format =
      TRY(format_or("--source-format", words.source_format, ImageFormat::automatic));
  options.format = TRY(format_or("--format", words.format, ImageFormat::qcow2));
  if (!words.compress.empty()) {
    options.compression = TRY(parse_compression(words.compress));
    if (options.format == ImageFormat::raw) return fail("--compress: a raw disk cannot be packed");
  }
  if (!words.cluster_size.empty()) {
    if (options.format == ImageFormat::raw) return fail("--cluster-size: a raw disk has none");
    options.cluster_size = TRY(size_of("--cluster-size", words.cluster_size));
  }
  TRY(run_long(words.progress, fmt::format("'{}' was not created", options.target),
               [&](Progress& progress) { return qcow2::convert(options, progress); }));
  return 0;
}

// ---- info

void describe_json(po::options_description& options, Words& words) {
  options.add_options()("json", po::bool_switch(&words.json), "as JSON");
}

nlohmann::json info_json(const qcow2::ImageInfo& info) {
  nlohmann::json json = {{"path", info.path},
                         {"format", qcow2::format_name(info.format)},
                         {"size", info.size},
                         {"space", info.space},
                         {"in_use", info.in_use}};
  if (info.format == ImageFormat::raw) return json;
  json["version"] = info.header.version;
  json["cluster_size"] = info.header.cluster_size();
  json["compression"] = info.header.compression == qcow2::Compression::zstd ? "zstd" : "zlib";
  json["refcount_bits"] = 1u << info.header.refcount_order;
  json["snapshots"] = info.header.snapshots;
  json["dirty"] = info.dirty;
  json["damaged"] = info.damaged;
  json["backing"] = nlohmann::json::array();
  for (const auto& backing : info.backing) {
    json["backing"].push_back(
        {{"path", backing.path}, {"format", qcow2::format_name(backing.format)}});
  }
  if (!info.backing_error.empty()) json["error"] = info.backing_error;
  return json;
}

void print_info(const qcow2::ImageInfo& info) {
  const auto line = [](std::string_view name, const std::string& value) {
    fmt::print("{:<14}{}\n", fmt::format("{}:", name), value);
  };
  line("path", info.path);
  line("format", std::string(qcow2::format_name(info.format)));
  line("size", fmt::format("{} ({} bytes)", format_size(info.size), info.size));
  line("space", fmt::format("{} bytes on the host", info.space));
  if (info.in_use) line("state", "in use: another program writes to it");
  if (info.format == ImageFormat::raw) return;
  line("version", fmt::format("{}", info.header.version));
  line("cluster size", format_size(info.header.cluster_size()));
  line("compression", info.header.compression == qcow2::Compression::zstd ? "zstd" : "zlib");
  line("refcounts", fmt::format("{} bits", 1u << info.header.refcount_order));
  if (info.header.snapshots > 0) line("snapshots", fmt::format("{}", info.header.snapshots));
  for (const auto& backing : info.backing) {
    line("backing file", fmt::format("{} ({})", backing.path, qcow2::format_name(backing.format)));
  }
  if (info.dirty) line("state", "not closed well; `vmm disk check --repair` mends it");
  if (info.damaged) line("state", "marked as damaged");
  if (!info.backing_error.empty()) line("error", info.backing_error);
}

std::string dump(const nlohmann::json& json) {
  // A path may have any bytes.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<int> info(const Words& words) {
  const auto info = TRY(qcow2::describe_image(words.names[0]));
  if (words.json) {
    fmt::print("{}\n", dump(info_json(info)));
  } else {
    print_info(info);
  }
  return 0;
}

// ---- check

void describe_check(po::options_description& options, Words& words) {
  options.add_options()  //
      ("repair", po::bool_switch(&words.repair),
       "free leaked clusters; mend an image that was not closed well")(
          "json", po::bool_switch(&words.json), "as JSON");
  describe_progress(options, words);
}

Result<int> check(const Words& words) {
  const auto repair = words.repair ? qcow2::Repair::leaks : qcow2::Repair::none;
  const auto result = TRY(run_long(
      words.progress, fmt::format("'{}' was not checked to its end", words.names[0]),
      [&](Progress& progress) { return qcow2::check_image(words.names[0], repair, progress); }));
  if (words.json) {
    const nlohmann::json json = {
        {"clusters", result.clusters}, {"allocated", result.allocated},
        {"leaks", result.leaks},       {"corruptions", result.corruptions},
        {"repaired", result.repaired}, {"dirty", result.was_dirty && !words.repair},
        {"messages", result.messages}};
    fmt::print("{}\n", dump(json));
  } else {
    for (const auto& message : result.messages) fmt::print("{}\n", message);
    if (result.repaired > 0) fmt::print("{} refcounts were repaired\n", result.repaired);
    if (result.is_clean()) {
      fmt::print("no errors; {} of {} clusters are allocated\n", result.allocated, result.clusters);
    } else {
      fmt::print("{} corruptions, {} leaked clusters\n", result.corruptions, result.leaks);
    }
  }
  if (result.corruptions > 0) return kCorrupt;
  return result.leaks > 0 ? kLeaks : 0;
}

// ---- commit

Result<int> commit(const Words& words) {
  const auto& path = words.names[0];
  const auto rest = fmt::format(
      "'{0}' reads as before, with a part of it in its backing file already; `vmm disk commit {0}` "
      "does the rest",
      path);
  TRY(run_long(words.progress, rest,
               [&](Progress& progress) { return qcow2::commit(path, progress); }));
  return 0;
}

// ---- resize

void describe_resize(po::options_description& options, Words& words) {
  options.add_options()  //
      ("shrink", po::bool_switch(&words.shrink), "allow a smaller size; what lies behind is lost")(
          "format", text(words.format, "raw|qcow2"),
          "of the disk; by default its first bytes tell");
}

Result<int> resize(const Words& words) {
  qcow2::ResizeOptions options;
  options.path = words.names[0];
  options.format = TRY(format_or("--format", words.format, ImageFormat::automatic));
  const std::string& size = words.names[1];
  options.relative = size.starts_with('+');
  options.size = TRY(size_of("size", options.relative ? size.substr(1) : size));
  if (words.shrink) options.shrink = qcow2::Shrink::allowed;
  TRY(qcow2::resize(options));
  return 0;
}

// ---- rebase

void describe_rebase(po::options_description& options, Words& words) {
  options.add_options()  //
      ("backing-format", text(words.backing_format, "raw|qcow2"),
       "of the backing file; by default its first bytes tell")(
          "unsafe", po::bool_switch(&words.unsafe),
          "change the name alone, as for a file that was moved; it need not be there");
  describe_progress(options, words);
}

Result<int> rebase(const Words& words) {
  qcow2::RebaseOptions options;
  options.path = words.names[0];
  options.keeps_content = !words.unsafe;
  options.backing_format =
      TRY(format_or("--backing-format", words.backing_format, ImageFormat::automatic));
  if (words.names.size() > 1) {
    options.backing_path = words.names[1];
    if (words.unsafe && words.backing_format.empty()) {
      return fail("--unsafe does not look at '{}': --backing-format is missing", words.names[1]);
    }
  } else if (words.unsafe || !words.backing_format.empty()) {
    return fail(
        "a backing file is missing: expected vmm disk rebase {} BACKING; see `vmm disk --help`",
        options.path);
  }
  TRY(run_long(words.progress,
               fmt::format("'{}' has its old backing file and reads as before", options.path),
               [&](Progress& progress) { return qcow2::rebase(options, progress); }));
  return 0;
}

// ---- compare

void describe_compare(po::options_description& options, Words& words) {
  options.add_options()  //
      ("format", text(words.format, "raw|qcow2"),
       "of the first disk; by default its first bytes tell")(
          "second-format", text(words.second_format, "raw|qcow2"), "of the second disk");
  describe_progress(options, words);
}

Result<int> compare(const Words& words) {
  qcow2::CompareOptions options;
  options.first = words.names[0];
  options.second = words.names[1];
  options.first_format = TRY(format_or("--format", words.format, ImageFormat::automatic));
  options.second_format =
      TRY(format_or("--second-format", words.second_format, ImageFormat::automatic));
  const auto result =
      TRY(run_long(words.progress, "the disks were not compared to their ends",
                   [&](Progress& progress) { return qcow2::compare(options, progress); }));
  if (result.differ_at) {
    fmt::print("the disks differ at byte {}\n", *result.differ_at);
    return kDiffers;
  }
  fmt::print("the disks are the same");
  if (result.first_size != result.second_size) {
    fmt::print(", but for zeroes behind the end of {} or {} bytes", result.first_size,
               result.second_size);
  }
  fmt::print("\n");
  return 0;
}

constexpr std::array<Subcommand<Words>, 8> kSubcommands = {{
    {"create", "PATH [SIZE]", "an empty disk; SIZE is that of the backing file when left out", 1, 2,
     &describe_create, &create},
    {"convert", "SOURCE TARGET", "a copy that needs no other file", 2, 2, &describe_convert,
     &convert},
    {"info", "PATH", "what a disk is", 1, 1, &describe_json, &info},
    {"check", "PATH", "whether an image is in order", 1, 1, &describe_check, &check},
    {"commit", "PATH", "what an image has goes into its backing file", 1, 1, &describe_progress,
     &commit},
    {"resize", "PATH SIZE", "another size, or as much more as +SIZE says", 2, 2, &describe_resize,
     &resize},
    {"rebase", "PATH [BACKING]", "another backing file, or none; the image reads as before", 1, 2,
     &describe_rebase, &rebase},
    {"compare", "PATH PATH", "whether two disks have the same content", 2, 2, &describe_compare,
     &compare, kNotCompared},
}};

constexpr Group<Words> kGroup = {
    "disk", "", "create, convert, check, resize and compare disk images", kSubcommands};

}  // namespace

Page disk_page() {
  Page page = page_of(kGroup);
  page.description = {
      "Makes and looks after disk images, raw and qcow2. An image gets its name only when it is "
      "complete, and no existing file is overwritten."};
  page.sections = {{"Exit codes",
                    {},
                    {{"0", "done"},
                     {"1", "refused; compare: the disks differ"},
                     {"2", "check: corruptions were found; compare: refused"},
                     {"3", "check: only leaked clusters were found"}}}};
  return page;
}

int disk(Arguments arguments) { return run_subcommand(kGroup, arguments); }

}  // namespace vmm::cli
