#include "src/disk/disk_config.h"

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

spec::Item slot_size(std::uint64_t& size) {
  return spec::checked(spec::size(size), [&size]() -> Result<void> {
    if (size != 0 && size % kSectorSize == 0 && size <= kMaxDiskSize) return {};
    return fail("invalid value '{}': expected a multiple of {} up to {}", size, kSectorSize,
                kMaxDiskSize);
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
  fields.add({"size", "size=SIZE",
              "a slot: disks of at most SIZE are attached and detached while the guest runs "
              "(`vmm ctl SOCKET attach`); as the first word an empty one",
              Lead::instead},
             slot_size(disk.slot_size));
  fields.add({"format", "format=raw|qcow2|vmdk",
              "without it, raw or qcow2 by its first bytes; vmdk: a list of files (ro)"},
             spec::choice(disk.format, kFormats));
  fields.add({.name = "ro",
              .form = "ro",
              .help = "the guest cannot write to it",
              .elsewhere = "readonly read-only"},
             spec::toggle(disk.read_only));
  fields.add(spec::host({"rw", "rw",
                         "the guest may write to it, as it may without `ro`; to be said of a slot "
                         "of a snapshot that this user did not save on this host"}),
             spec::toggle(disk.may_write));
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
  fields.check_with([&disk]() -> Result<void> {
    if (disk.read_only && disk.may_write) return fail("ro and rw do not go together");
    if (!disk.is_empty() || !disk.scratch) return {};
    return fail("scratch needs a path: nothing is written to an empty slot");
  });
  return fields;
}

Result<DiskConfig> parse_disk_config(std::string_view words) {
  auto disk = TRY(spec::from_words<DiskConfig>(words));
  if (disk.path.empty() && !disk.is_slot()) {
    return fail("disk '{}': a path is missing: --disk PATH[,ro]", words);
  }
  return disk;
}

Result<DiskConfig> fill_slot(const DiskConfig& slot, const DiskConfig& given) {
  const DiskConfig plain{.id = given.id,
                         .path = given.path,
                         .format = given.format,
                         .read_only = given.read_only,
                         .may_write = given.may_write,
                         .direct = given.direct,
                         .scratch = given.scratch,
                         .io = given.io};
  if (given != plain) {
    return fail(
        "disk '{}': of what is attached only path, format, ro, rw, scratch, direct and io can be "
        "said: the slot has the rest",
        given.path);
  }
  if (given.path.empty()) return fail("a path is missing: it says which disk is attached");
  if (given.read_only && !slot.read_only) {
    return fail("disk '{}': ',ro' is for a slot that has it: this guest may write to its disk",
                given.path);
  }
  if (given.may_write && slot.read_only) {
    return fail("disk '{}': ',rw' is for a slot without ',ro': this guest cannot write to its disk",
                given.path);
  }
  auto filled = empty_slot(slot);
  filled.path = given.path;
  filled.format = given.format;
  filled.direct = given.direct;
  filled.scratch = given.scratch;
  filled.io = given.io;
  return filled;
}

DiskConfig empty_slot(const DiskConfig& slot) {
  auto empty = slot;
  empty.path.clear();
  empty.label.clear();
  empty.layer.clear();
  empty.format = ImageFormat::automatic;
  empty.may_write = empty.direct = empty.scratch = false;
  empty.io = IoEngine::automatic;
  return empty;
}

}  // namespace vmm::disk
