#include "devices/backend/disk/disk_config.h"

#include "src/spec/items.h"

namespace vmm::disk {
namespace {

constexpr std::array<std::pair<std::string_view, ImageFormat>, 3> kFormats = {
    {{"raw", ImageFormat::raw}, {"qcow2", ImageFormat::qcow2}, {"vmdk", ImageFormat::vmdk}}};
constexpr std::array<std::pair<std::string_view, IoEngine>, 3> kEngines = {
    {{"auto", IoEngine::automatic}, {"uring", IoEngine::uring}, {"threads", IoEngine::threads}}};

spec::Item rate(std::uint64_t& limit) {
  return spec::checked(spec::size(limit), [&limit]() -> Result<void> {
    if (limit != 0) return {};
    return fail("invalid value '0': expected at least 1; without the key there is no limit");
  });
}

spec::Item serial_number(std::string& serial) {
  return spec::checked(spec::text(serial), [&serial]() -> Result<void> {
    if (serial.size() <= kMaxSerial) return {};
    return fail("'{}' is longer than {} bytes", serial, kMaxSerial);
  });
}

spec::Item queue_entries(std::uint16_t& size) {
  return spec::checked(spec::number(size, 4, 1024), [&size]() -> Result<void> {
    if ((size & (size - 1)) == 0) return {};
    return fail("invalid value '{}': expected a power of two from 4 to 1024", size);
  });
}

}  // namespace

spec::Fields fields_of(DiskConfig& disk) {
  using spec::Lead;
  spec::Fields fields("disk");
  fields.add({"id", "", ""}, spec::text(disk.id));
  fields.add(
      spec::host({"path", "path=PATH", "file or block device (the first word, too)", Lead::value}),
      spec::text(disk.path));
  fields.add({"format", "format=raw|qcow2|vmdk",
              "without it, raw or qcow2 by its first bytes; vmdk: a list of files (ro)"},
             spec::choice(disk.format, kFormats));
  fields.add({.name = "ro",
              .form = "ro",
              .help = "the guest cannot write to it",
              .elsewhere = "readonly read-only"},
             spec::toggle(disk.read_only));
  fields.add({"serial", "serial=TEXT", "up to 20 bytes, /sys/block/vda/serial in the guest"},
             serial_number(disk.serial));
  fields.add(spec::host({"scratch", "scratch", "what is written is gone when the machine ends"}),
             spec::toggle(disk.scratch));
  fields.add(spec::host({"direct", "direct", "past the host's page cache (O_DIRECT)"}),
             spec::toggle(disk.direct));
  fields.add(spec::host({"io", "io=auto|uring|threads", "how transfers reach the host's kernel"}),
             spec::choice(disk.io, kEngines));
  fields.add({"queues", "queues=N", "1 to 64, one thread each"},
             spec::number(disk.queues, 1, kMaxQueues));
  fields.add({"queue-size", "queue-size=N", "a power of two from 4 to 1024"},
             queue_entries(disk.queue_size));
  auto& limits = disk.limits;
  fields.add({"bps", "bps=SIZE", "limit: bytes a second, discarded and zeroed ones too"},
             rate(limits.bytes_per_second));
  fields.add({"bps-burst", "bps-burst=SIZE", "bytes at once after a pause"},
             rate(limits.burst_bytes));
  fields.add({"iops", "iops=N", "limit: requests a second"}, rate(limits.operations_per_second));
  fields.add({"iops-burst", "iops-burst=N", "requests at once after a pause"},
             rate(limits.burst_operations));
  return fields;
}

Result<DiskConfig> parse_disk_config(std::string_view words) {
  auto disk = TRY(spec::from_words<DiskConfig>(words));
  if (disk.path.empty()) return fail("disk '{}': a path is missing: --disk PATH[,ro]", words);
  return disk;
}

}  // namespace vmm::disk
