#include "src/cli/config/disk_option.h"

#include <algorithm>
#include <array>

#include "src/base/text.h"
#include "src/cli/config/option_text.h"

namespace vmm::config {
namespace {

using disk::DiskConfig;

Result<bool> parse_switch(std::string_view value) {
  if (value == "on") return true;
  if (value == "off") return false;
  return fail("'{}' is not on or off", value);
}

Result<std::uint64_t> parse_rate(std::string_view value) {
  const auto rate = TRY(parse_size(value));
  if (rate == 0) return fail("'0' is no limit: leave the key away for none");
  return rate;
}

Result<disk::IoEngine> parse_engine(std::string_view value) {
  if (value == "auto") return disk::IoEngine::automatic;
  if (value == "uring") return disk::IoEngine::uring;
  if (value == "threads") return disk::IoEngine::threads;
  return fail("'{}' is not known: auto, uring or threads is", value);
}

Result<disk::ImageFormat> parse_image_format(std::string_view value) {
  if (value == "raw") return disk::ImageFormat::raw;
  if (value == "qcow2") return disk::ImageFormat::qcow2;
  constexpr std::array<std::string_view, 2> kNames = {"raw", "qcow2"};
  return fail("'{}' is not known{}: raw or qcow2 is", value, did_you_mean(value, kNames));
}

Result<std::uint16_t> parse_queues(std::string_view value) {
  return static_cast<std::uint16_t>(TRY(parse_number(value, 1, disk::kMaxQueues, "queues")));
}

Result<std::uint16_t> parse_queue_size(std::string_view value) {
  const auto size = TRY(parse_number(value, 4, 1024, "queue-size"));
  if ((size & (size - 1)) != 0) return fail("'{}' is no power of two", value);
  return static_cast<std::uint16_t>(size);
}

struct Key {
  std::string_view name;
  bool flag;
  std::string_view form;
  std::string_view help;
  Result<void> (*set)(DiskConfig&, std::string_view value);
};

// A key's setter: parse, then assign.
#define VMM_SET(member, parse)                            \
  [](DiskConfig& c, std::string_view v) -> Result<void> { \
    c.member = TRY(parse);                                \
    return {};                                            \
  }

constexpr std::array<Key, 13> kKeys = {{
    {"path", false, "path=PATH", "file or block device (the first word, too)",
     [](DiskConfig& c, std::string_view v) -> Result<void> {
       c.path = v;
       return {};
     }},
    {"format", false, "format=raw|qcow2", "what the file is; without it, its first bytes tell",
     VMM_SET(format, parse_image_format(v))},
    {"ro", true, "ro", "the guest cannot write to it", VMM_SET(read_only, parse_switch(v))},
    {"serial", false, "serial=TEXT", "up to 20 bytes, /sys/block/vda/serial in the guest",
     [](DiskConfig& c, std::string_view v) -> Result<void> {
       if (v.size() > disk::kMaxSerial) {
         return fail("'{}' is longer than {} bytes", v, disk::kMaxSerial);
       }
       c.serial = v;
       return {};
     }},
    {"scratch", true, "scratch", "what is written is gone when the machine ends",
     VMM_SET(scratch, parse_switch(v))},
    {"direct", true, "direct", "past the host's page cache (O_DIRECT)",
     VMM_SET(direct, parse_switch(v))},
    {"io", false, "io=auto|uring|threads", "how transfers reach the host's kernel",
     VMM_SET(io, parse_engine(v))},
    {"queues", false, "queues=N", "1 to 64, one thread each", VMM_SET(queues, parse_queues(v))},
    {"queue-size", false, "queue-size=N", "a power of two from 4 to 1024",
     VMM_SET(queue_size, parse_queue_size(v))},
    {"bps", false, "bps=SIZE", "limit: bytes a second",
     VMM_SET(limits.bytes_per_second, parse_rate(v))},
    {"bps-burst", false, "bps-burst=SIZE", "bytes at once after a pause",
     VMM_SET(limits.burst_bytes, parse_rate(v))},
    {"iops", false, "iops=N", "limit: requests a second",
     VMM_SET(limits.operations_per_second, parse_rate(v))},
    {"iops-burst", false, "iops-burst=N", "requests at once after a pause",
     VMM_SET(limits.burst_operations, parse_rate(v))},
}};

#undef VMM_SET

}  // namespace

Result<DiskConfig> parse_disk_option(std::string_view text) {
  DiskConfig config;
  bool first = true;
  for (const auto& part : split_words(text)) {
    Word word = split_word(part);
    if (std::exchange(first, false) && word.key != "path") word = {"path", part, true};
    const auto* key = std::ranges::find(kKeys, word.key, &Key::name);
    if (key == kKeys.end()) {
      std::array<std::string_view, kKeys.size()> names;
      for (std::size_t i = 0; i < names.size(); ++i) names[i] = kKeys[i].name;
      return fail("disk '{}': unknown key '{}'{}", text, word.key, did_you_mean(word.key, names));
    }
    if (!word.has_value && !key->flag) {
      return fail("disk '{}': '{}' takes a value: {}", text, key->name, key->form);
    }
    if (const auto set = key->set(config, word.has_value ? std::string_view(word.value) : "on");
        !set) {
      return fail("disk '{}': {}: {}", text, key->name, set.error().message());
    }
  }
  if (config.path.empty()) return fail("disk '{}': a path is missing: --disk PATH[,ro]", text);
  return config;
}

std::string describe_disk_option() {
  std::string text;
  for (const auto& key : kKeys) text += fmt::format("      {:<24}{}\n", key.form, key.help);
  return text;
}

}  // namespace vmm::config
