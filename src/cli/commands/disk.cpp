// vmm disk create|convert|info|check|commit ...
#include <boost/program_options.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <array>

#include "devices/backend/disk/qcow2/chain.h"
#include "devices/backend/disk/qcow2/check.h"
#include "devices/backend/disk/qcow2/commit.h"
#include "devices/backend/disk/qcow2/convert.h"
#include "devices/backend/disk/qcow2/create.h"
#include "devices/backend/disk/qcow2/image_info.h"
#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/subcommand.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;
namespace qcow2 = disk::qcow2;
using vmm::disk::ImageFormat;

// Exit codes of `check`, those of `qemu-img check`.
constexpr int kCorrupt = 2;
constexpr int kLeaks = 3;

// The words of all subcommands; each takes those that it describes.
struct Words {
  std::vector<std::string> names;  // files, a size
  std::string format, backing, backing_format, cluster_size, compress;
  bool repair = false, json = false;
};

po::typed_value<std::string>* text(std::string& target, const char* name) {
  return po::value(&target)->value_name(name);
}

Result<ImageFormat> format_or(const std::string& word, ImageFormat otherwise) {
  if (word.empty()) return otherwise;
  auto format = qcow2::parse_format(word);
  if (!format) return fail("--format: {}", format.error().message());
  return format;
}

Result<qcow2::Compression> parse_compression(const std::string& word) {
  if (word == "zlib") return qcow2::Compression::zlib;
  if (word == "zstd") return qcow2::Compression::zstd;
  return fail("--compress: '{}' is not known: zlib or zstd is", word);
}

Result<std::uint64_t> size_of(std::string_view what, const std::string& word) {
  auto size = parse_size(word);
  if (!size) return fail("{}: {}", what, size.error().message());
  return size;
}

// ---- create

void describe_create(po::options_description& options, Words& words) {
  options.add_options()  //
      ("format", text(words.format, "FORMAT"), "raw or qcow2 (qcow2)")(
          "backing", text(words.backing, "FILE"),
          "has what the new image does not; relative to its directory")(
          "backing-format", text(words.backing_format, "FORMAT"),
          "raw or qcow2; without it, the file's first bytes tell")(
          "cluster-size", text(words.cluster_size, "N"), "512 to 2M, a power of two (64K)");
}

Result<int> create(const Words& words) {
  qcow2::CreateOptions options;
  options.path = words.names[0];
  if (words.names.size() > 1) {
    options.size = TRY(size_of("size", words.names[1]));
    if (options.size == 0) return fail("size: '{}' is too small", words.names[1]);
  } else if (words.backing.empty()) {
    return fail("a size is missing: vmm disk create {} SIZE", options.path);
  }
  options.format = TRY(format_or(words.format, ImageFormat::qcow2));
  options.backing_path = words.backing;
  if (!words.backing_format.empty()) {
    const auto format = qcow2::parse_format(words.backing_format);
    if (!format) return fail("--backing-format: {}", format.error().message());
    if (words.backing.empty()) return fail("--backing-format goes with --backing FILE");
    options.backing_format = *format;
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
      ("format", text(words.format, "FORMAT"), "of the target: raw or qcow2 (qcow2)")(
          "compress", text(words.compress, "METHOD"), "zlib or zstd, for a qcow2 target")(
          "cluster-size", text(words.cluster_size, "N"), "512 to 2M, a power of two (64K)");
}

Result<int> convert(const Words& words) {
  qcow2::ConvertOptions options;
  options.source = words.names[0];
  options.target = words.names[1];
  options.format = TRY(format_or(words.format, ImageFormat::qcow2));
  if (!words.compress.empty()) {
    options.compression = TRY(parse_compression(words.compress));
    if (options.format == ImageFormat::raw) return fail("--compress: a raw disk cannot be packed");
  }
  if (!words.cluster_size.empty()) {
    if (options.format == ImageFormat::raw) return fail("--cluster-size: a raw disk has none");
    options.cluster_size = TRY(size_of("--cluster-size", words.cluster_size));
  }
  TRY(qcow2::convert(options));
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
                         {"space", info.space}};
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
}

Result<int> check(const Words& words) {
  const auto result = TRY(qcow2::check_image(
      words.names[0], words.repair ? qcow2::Repair::leaks : qcow2::Repair::none));
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
  TRY(qcow2::commit(words.names[0]));
  return 0;
}

constexpr std::array<Subcommand<Words>, 5> kSubcommands = {{
    {"create", "PATH [SIZE]", "an empty disk; SIZE is that of the backing file when left out", 1, 2,
     &describe_create, &create},
    {"convert", "SOURCE TARGET", "a copy that needs no other file", 2, 2, &describe_convert,
     &convert},
    {"info", "PATH", "what a disk is", 1, 1, &describe_json, &info},
    {"check", "PATH", "whether an image is in order", 1, 1, &describe_check, &check},
    {"commit", "PATH", "what an image has goes into its backing file", 1, 1, nullptr, &commit},
}};

}  // namespace

std::string disk_help() {
  return "Usage: vmm disk COMMAND ...\n\n"
         "Makes and looks after disk images, raw and qcow2. What is made has its name only when it "
         "is whole,\nand nothing is ever overwritten.\n\n" +
         list_of<Words>("disk", kSubcommands) +
         "\nExit codes: 0 done, 1 refused; check: 2 corruptions were found, 3 leaked clusters "
         "only.\n";
}

int disk(Arguments arguments) {
  return run_subcommand<Words>("disk", kSubcommands, disk_help, arguments);
}

}  // namespace vmm::cli
