#include "src/hypervisor/session/saver.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <system_error>

#include "src/base/caught.h"
#include "src/base/file_time.h"
#include "src/base/log.h"
#include "src/disk/copied_disk.h"
#include "src/hypervisor/session/memory_writer.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// Every disk is one that can be copied, and records what is written to it.
template <typename Visit>
void for_each_disk(Machine& machine, Visit visit) {
  machine.devices().for_each([&](const std::string& name, virtio::Device& device) {
    if (auto* disk = device.copied_disk(); disk != nullptr) visit(name, *disk);
  });
}

}  // namespace

struct Saver::Job {
  SaveRequest request;
  std::unique_ptr<snapshot::Writer> writer;
  std::unique_ptr<snapshot::Reader> parent;
  std::unique_ptr<GuestMemory> parent_memory;
  snapshot::Manifest manifest;
  state::Sections sections;
  UniqueFd memory_file;
  std::vector<snapshot::Extent> candidates;
  snapshot::MemoryLayer layer;
  std::optional<ForkedWriter> child;
  struct Copy {
    std::size_t disk;          // index in manifest.disks
    disk::CopiedDisk* source;  // null: cloned already
  };
  std::vector<Copy> copies;
  bool tracking = false;
  bool whole = false;  // nothing is to be given up any more
  Clock::time_point begun = Clock::now();
  Clock::duration paused{};
  std::string digest;

  MemoryToWrite memory_of(const Machine& machine) const {
    return {.memory = machine.memory(),
            .parent = parent_memory.get(),
            .candidates = candidates,
            .file = memory_file.get(),
            .path = writer->path_of(snapshot::kMemoryFile)};
  }
  Result<void> complete(const snapshot::BootFiles& boot, Progress& progress);
  Result<void> complete_disk(const Copy& copy, Progress& progress);
  protocol::Saved result() const;
  // What is not whole leaves nothing behind: no copy goes on, no process, no file.
  ~Job() {
    for (const auto& copy : copies) {
      if (!whole && copy.source != nullptr) copy.source->give_up();
    }
  }
};

Result<void> Saver::Job::complete(const snapshot::BootFiles& boot, Progress& progress) {
  if (child) layer = TRY(child->wait(progress));
  child.reset();
  const auto size = manifest.memory_size();
  TRY(sync_sparse(memory_file.get(), size, progress));
  progress.begin("hashing memory", snapshot::sparse_size(memory_file.get(), size));
  manifest.memory_digest = TRY(snapshot::digest_of_sparse(memory_file.get(), size, progress));
  if (boot.kernel) progress.begin("copying the kernel", 2 * snapshot::boot_size(boot));
  manifest.boot = TRY(
      snapshot::keep_boot_files(*writer, boot, parent ? &parent->manifest() : nullptr, progress));
  for (const auto& copy : copies) TRY(complete_disk(copy, progress));
  sections.put(snapshot::kMemorySection, layer);
  const auto states = TRY(sections.to_bytes());
  manifest.state_digest = snapshot::digest_of(states);
  TRY(writer->write_file(snapshot::kStateFile, states));
  digest = TRY(snapshot::digest_in(snapshot::to_text(manifest)));
  TRY(progress.advance(0));
  TRY(writer->publish(manifest, snapshot::Origin::machine));
  whole = true;
  return {};
}

Result<void> Saver::Job::complete_disk(const Copy& copy, Progress& progress) {
  auto& entry = manifest.disks[copy.disk];
  if (copy.source != nullptr) {
    progress.begin("copying disks", entry.size);
    TRY(copy.source->copy_rest(progress));
  }
  const auto file = TRY(open_file(writer->path_of(entry.file), O_RDONLY));
  progress.begin("hashing disks", snapshot::sparse_size(file.get(), entry.size));
  return snapshot::complete_entry(*writer, entry, progress);
}

protocol::Saved Saver::Job::result() const {
  struct stat status{};
  (void)::fstat(memory_file.get(), &status);
  std::uint64_t disk_bytes = 0;
  for (const auto& copy : copies) {
    struct stat of_disk{};
    const auto path = writer->path_of(manifest.disks[copy.disk].file);
    if (::stat(path.c_str(), &of_disk) == 0) {
      disk_bytes += static_cast<std::uint64_t>(of_disk.st_blocks) * 512;
    }
  }
  return {.directory = writer->directory(),
          .digest = digest,
          .pause_ms = milliseconds(paused),
          .total_ms = milliseconds(Clock::now() - begun),
          .memory_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512,
          .disk_bytes = disk_bytes,
          .incremental = parent != nullptr,
          .live = request.live};
}

Saver::Saver(snapshot::MachineTexts texts, const snapshot::BootFiles& boot)
    : texts_(std::move(texts)), boot_(boot) {}

Saver::~Saver() = default;

void Saver::restored_from(Machine& machine, std::string digest,
                          const std::set<std::string>& attached) {
  for_each_disk(machine, [&](const std::string& name, disk::CopiedDisk& disk) {
    if (!attached.contains(name)) disk.start_record();
  });
  tracked_ = std::move(digest);
  tracking_ = snapshot::Tracking::restored;
}

Result<void> Saver::begin(Machine& machine, const SaveRequest& request, Progress& progress) {
  const bool was_paused = machine.paused();
  auto job = make(machine, request, progress);
  // A machine that somebody paused stays so.
  if ((!request.stop || !job) && !was_paused) machine.resume();
  if (!job) return std::unexpected(job.error());
  job_ = std::move(*job);
  job_->paused = Clock::now() - job_->begun;
  return {};
}

Result<protocol::Saved> Saver::complete(Progress& progress) {
  const auto job = std::move(job_);
  TRY(caught([&] { return job->complete(boot_, progress); }));
  if (job->tracking) tracked_ = job->digest;
  failed_.clear();
  return job->result();
}

void Saver::give_up() { job_.reset(); }

Result<std::unique_ptr<Saver::Job>> Saver::make(Machine& machine, const SaveRequest& request,
                                                Progress& progress) {
  TRY(progress.advance(0));
  auto job = std::make_unique<Job>();
  job->request = request;
  auto& manifest = job->manifest;
  if (!request.parent.empty()) {
    job->parent = TRY(snapshot::Reader::open(request.parent));
    if (job->parent->digest() != tracked_) {
      if (!failed_.empty()) {
        return fail(
            "the save to '{}' failed, and with it went what changed before: take a complete "
            "snapshot, without --incremental",
            failed_);
      }
      return fail(
          "'{}' is not the last snapshot of this machine: what changed since is not known; take a "
          "complete one, without --incremental",
          request.parent);
    }
    if (job->parent->depth() == snapshot::kMaxDepth) {
      return fail(
          "'{}' builds on {} others, which is the most: take a complete one, without "
          "--incremental",
          request.parent, snapshot::kMaxDepth - 1);
    }
    job->parent_memory = TRY(job->parent->map_memory());
  }
  job->writer = TRY(snapshot::Writer::create(request.directory));
  manifest.architecture = snapshot::host_architecture();
  manifest.program = VMM_VERSION;
  manifest.config = texts_.config;
  manifest.attachments = texts_.attachments;
  for (const auto& region : machine.memory().regions()) manifest.memory.push_back(region.range);
  if (job->parent) manifest.parent = TRY(snapshot::parent_of(*job->writer, *job->parent));
  job->memory_file = TRY(job->writer->create_file(snapshot::kMemoryFile));
  if (::ftruncate(job->memory_file.get(), static_cast<off_t>(manifest.memory_size())) < 0) {
    return fail_errno("cannot make room for '{}'", job->writer->path_of(snapshot::kMemoryFile));
  }

  job->begun = Clock::now();
  machine.suspend();
  job->sections = TRY(machine.save());
  TRY(copy_disks(machine, *job));
  TRY(find_pages(machine, *job, progress));
  return job;
}

// From this moment on each disk is copied, or (incremental) what was written to it; or it is
// cloned, where the file system can.
Result<void> Saver::copy_disks(Machine& machine, Job& job) {
  Result<void> result;
  for_each_disk(machine, [&](const std::string& name, disk::CopiedDisk& disk) {
    if (result) result = copy_disk(name, disk, job);
  });
  return result;
}

Result<void> Saver::copy_disk(const std::string& name, disk::CopiedDisk& disk, Job& job) {
  std::error_code error;
  auto& disks = job.manifest.disks;
  auto& entry = disks.emplace_back(snapshot::DiskEntry{
      .device = name,
      .path = std::filesystem::absolute(disk.name(), error).lexically_normal().string(),
      .size = disk.info().size});
  // The machine's end must not change the file behind the time that is noted here.
  if (job.request.stop && !disk.info().read_only) TRY(disk.settle());
  struct stat status{};
  // Of one that came out of an archive there is no file to refer to.
  if (::stat(disk.name().c_str(), &status) == 0) {
    entry.modified_ns = nanoseconds(status.st_mtim);
    if (disk.info().read_only) return {};
  }
  const auto* below = job.parent ? job.parent->manifest().disk(name) : nullptr;
  // What was attached since is copied whole.
  const bool layer = below != nullptr && !below->file.empty() && disk.is_recording();
  auto target = layer
                    ? TRY(snapshot::create_layer(*job.writer, entry, *job.manifest.parent, *below))
                    : TRY(snapshot::create_copy(*job.writer, entry, disk.plain_file()));
  job.copies.push_back({disks.size() - 1, target ? &disk : nullptr});
  if (!target) return {};
  using What = disk::CopiedDisk::What;
  disk.begin(layer ? What::written : What::all, std::move(target));
  return {};
}

// Writes the memory, or leaves it to a fork; from here on, written pages are known by themselves.
Result<void> Saver::find_pages(Machine& machine, Job& job, Progress& progress) {
  if (job.parent) {
    job.candidates =
        TRY(snapshot::written_pages(machine.memory(), tracking_, TRY(job.parent->data_extents())));
  }
  // Of a machine that stands still, before anything is forgotten: when there is no room for it,
  // what changed since the last snapshot is known as before.
  if (!job.request.live) job.layer = TRY(write_memory(job.memory_of(machine), progress));
  if (!job.request.stop) {
    tracked_.clear();
    failed_ = job.request.directory;  // until it has not
    for_each_disk(machine, [](const std::string&, disk::CopiedDisk& disk) { disk.start_record(); });
    if (const auto tracking = tracker_.restart(machine.memory()); tracking) {
      job.tracking = true;
      tracking_ = *tracking;
    } else {
      log::info("no incremental snapshot can follow: {}", tracking.error().message());
    }
  }
  if (job.request.live) job.child.emplace(TRY(ForkedWriter::start(job.memory_of(machine))));
  return {};
}

}  // namespace vmm
