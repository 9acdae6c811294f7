#include "src/hypervisor/session/saver.h"

#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>

#include "devices/backend/disk/copied_disk.h"
#include "devices/virtio/blk/block_device.h"
#include "src/base/log.h"
#include "src/base/worker.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// A fork of this process that writes the memory as it was, and tells through a pipe what it wrote.
struct Child {
  pid_t process = 0;
  UniqueFd result;
};

// Every disk is one that can be copied, and records what is written to it.
template <typename Visit>
void for_each_disk(Machine& machine, Visit visit) {
  machine.devices().for_each([&](const std::string& name, virtio::Device& device) {
    auto* block = dynamic_cast<virtio::BlockDevice*>(&device);
    if (block == nullptr) return;
    auto* copied = dynamic_cast<disk::CopiedDisk*>(&block->disk());
    if (copied == nullptr) {
      block->replace_disk([&](std::unique_ptr<disk::Disk> inner) {
        auto wrapper = disk::CopiedDisk::over(std::move(inner));
        copied = wrapper.get();
        return wrapper;
      });
    }
    visit(name, *copied);
  });
}

}  // namespace

struct Saver::Job {
  SaveRequest request;
  Machine* machine = nullptr;
  Done done;
  std::unique_ptr<snapshot::Writer> writer;
  std::unique_ptr<snapshot::Reader> parent;
  std::unique_ptr<GuestMemory> parent_memory;
  snapshot::Manifest manifest;
  state::Sections sections;
  UniqueFd memory_file;
  std::vector<snapshot::Extent> candidates;
  snapshot::MemoryLayer layer;
  std::optional<Child> child;
  struct Copy {
    std::size_t disk;          // index in manifest.disks
    disk::CopiedDisk* source;  // null: cloned already
  };
  std::vector<Copy> copies;
  std::uint64_t number = 0;
  bool tracking = false;
  bool was_paused = false;  // by somebody: it stays so
  Clock::time_point begun = Clock::now();
  Clock::duration paused{};
  std::string digest;
  Result<void> result;  // of the second step; to be read when its thread has ended

  Result<snapshot::MemoryLayer> write_memory() const;
  Result<void> fork_writer();
  Result<snapshot::MemoryLayer> wait_for_child();
  Result<void> second_step();
  void abandon_copies() const {
    for (const auto& copy : copies) {
      if (copy.source != nullptr) copy.source->give_up();
    }
  }
  ~Job() {
    if (!child) return;
    ::kill(child->process, SIGKILL);
    ::waitpid(child->process, nullptr, 0);
  }
};

Result<snapshot::MemoryLayer> Saver::Job::write_memory() const {
  const auto& memory = machine->memory();
  if (parent_memory) {
    return snapshot::MemoryLayer{
        false,
        TRY(snapshot::write_changed_pages(memory, *parent_memory, candidates, memory_file.get()))};
  }
  const auto touched = TRY(snapshot::touched_pages(memory));
  TRY(snapshot::write_pages(memory, touched, memory_file.get()));
  return snapshot::MemoryLayer{};
}

Result<void> Saver::Job::fork_writer() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("pipe");
  UniqueFd reader(ends[0]), writer_end(ends[1]);
  const pid_t self = ::getpid();
  const pid_t process = ::fork();
  if (process < 0) return fail_errno("cannot fork to write the memory of a live snapshot");
  if (process == 0) {
    // Nothing of the machine may outlive it: locks of disks, sockets, KVM.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != self) ::_exit(1);
    constexpr int kPipe = 3, kMemory = 4;
    const int pipe_copy = ::fcntl(writer_end.get(), F_DUPFD, 10);
    const int memory_copy = ::fcntl(memory_file.get(), F_DUPFD, 10);
    ::dup2(pipe_copy, kPipe);
    ::dup2(memory_copy, kMemory);
    ::close_range(kMemory + 1, ~0u, 0);
    set_thread_name("snapshot");
    (void)memory_file.release();  // closed above, and its number may be one of these two
    memory_file = UniqueFd(kMemory);
    auto written = write_memory();
    std::vector<std::byte> message = {written ? std::byte{'+'} : std::byte{'-'}};
    if (written) {
      const auto bytes = state::encode(*written);
      message.insert(message.end(), bytes.begin(), bytes.end());
    } else {
      const auto text = std::as_bytes(std::span(written.error().message()));
      message.insert(message.end(), text.begin(), text.end());
    }
    ::_exit(write_all(kPipe, message) ? 0 : 1);
  }
  child = Child{process, std::move(reader)};
  return {};
}

Result<snapshot::MemoryLayer> Saver::Job::wait_for_child() {
  std::vector<std::byte> message;
  std::array<std::byte, 65536> chunk;
  for (;;) {
    const ssize_t n = ::read(child->result.get(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    message.insert(message.end(), chunk.begin(), chunk.begin() + n);
  }
  int status = 0;
  ::waitpid(child->process, &status, 0);
  child.reset();
  if (message.empty() || status != 0) return fail("the process that wrote the memory was killed");
  const auto body = std::span(message).subspan(1);
  if (message[0] == std::byte{'-'}) {
    return fail("{}", std::string(reinterpret_cast<const char*>(body.data()), body.size()));
  }
  return state::decode<snapshot::MemoryLayer>(body);
}

Result<void> Saver::Job::second_step() {
  if (child) layer = TRY(wait_for_child());
  if (::fdatasync(memory_file.get()) < 0) return fail_errno("cannot sync the memory's file");
  manifest.memory_digest =
      TRY(snapshot::digest_of_sparse(memory_file.get(), manifest.memory_size()));
  for (const auto& copy : copies) {
    if (copy.source != nullptr) TRY(copy.source->copy_rest());
    TRY(snapshot::complete_entry(*writer, manifest.disks[copy.disk]));
  }
  sections.put(snapshot::kMemorySection, layer);
  const auto states = sections.to_bytes();
  manifest.state_digest = snapshot::digest_of(states);
  TRY(writer->write_file(snapshot::kStateFile, states));
  digest = TRY(snapshot::digest_in(snapshot::to_text(manifest)));
  return writer->publish(manifest);
}

Saver::Saver(EventLoop& loop, std::string config_text)
    : loop_(loop), config_text_(std::move(config_text)) {}

Saver::~Saver() { settle(); }

void Saver::restored_from(Machine& machine, std::string digest) {
  for_each_disk(machine, [](const std::string&, disk::CopiedDisk& disk) { disk.start_record(); });
  tracked_ = std::move(digest);
  tracking_ = snapshot::Tracking::restored;
}

void Saver::save(Machine& machine, const SaveRequest& request, Done done) {
  if (job_) {
    done(fail("a snapshot is being taken"));
    return;
  }
  const bool was_paused = machine.paused();
  auto job = begin(machine, request);
  // A machine that somebody paused stays so.
  if ((!request.stop || !job) && !was_paused) machine.resume();
  if (!job) {
    done(std::unexpected(job.error()));
    return;
  }
  job_ = std::move(*job);
  job_->was_paused = was_paused;
  job_->paused = Clock::now() - job_->begun;
  job_->done = std::move(done);
  job_->number = ++jobs_;
  thread_ = std::thread([this] {
    set_thread_name("snapshot");
    job_->result = job_->second_step();
    loop_.post([this, number = job_->number] {
      if (job_ && job_->number == number) finish();
    });
  });
}

Result<std::unique_ptr<Saver::Job>> Saver::begin(Machine& machine, const SaveRequest& request) {
  auto job = std::make_unique<Job>();
  job->request = request;
  job->machine = &machine;
  auto& manifest = job->manifest;
  if (!request.parent.empty()) {
    job->parent = TRY(snapshot::Reader::open(request.parent));
    if (job->parent->digest() != tracked_) {
      return fail(
          "'{}' is not the last snapshot of this machine: what changed since is not known; take "
          "one "
          "without --incremental",
          request.parent);
    }
    if (job->parent->depth() == snapshot::kMaxDepth) {
      return fail("'{}' builds on {} others already, no more are possible: merge it first",
                  request.parent, snapshot::kMaxDepth - 1);
    }
    job->parent_memory = TRY(job->parent->map_memory());
  }
  job->writer = TRY(snapshot::Writer::create(request.directory));
  manifest.architecture = snapshot::host_architecture();
  manifest.program = VMM_VERSION;
  manifest.config = config_text_;
  for (const auto& region : machine.memory().regions()) manifest.memory.push_back(region.range);
  if (job->parent) {
    const auto from = std::filesystem::absolute(job->parent->directory()).lexically_normal();
    manifest.parent = snapshot::Parent{from.lexically_relative(job->writer->directory()).string(),
                                       job->parent->digest()};
  }
  job->memory_file = TRY(job->writer->create_file(snapshot::kMemoryFile));
  if (::ftruncate(job->memory_file.get(), static_cast<off_t>(manifest.memory_size())) < 0) {
    return fail_errno("cannot make room for the memory's file");
  }

  job->begun = Clock::now();
  machine.suspend();
  job->sections = TRY(machine.save());
  if (auto result = copy_disks(machine, *job); !result) {
    job->abandon_copies();
    return std::unexpected(result.error());
  }
  if (auto result = find_pages(machine, *job); !result) {
    job->abandon_copies();
    return std::unexpected(result.error());
  }
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
  struct stat status{};
  // Of one that came out of an archive there is no file to refer to.
  if (disk.info().read_only && ::stat(disk.name().c_str(), &status) == 0) {
    entry.modified_ns =
        std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    return {};
  }
  const auto* below = job.parent ? job.parent->manifest().disk(name) : nullptr;
  const bool layer = below != nullptr && !below->file.empty();
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
Result<void> Saver::find_pages(Machine& machine, Job& job) {
  if (job.parent) {
    job.candidates =
        TRY(snapshot::written_pages(machine.memory(), tracking_, TRY(job.parent->data_extents())));
  }
  if (!job.request.stop) {
    tracked_.clear();
    for_each_disk(*job.machine,
                  [](const std::string&, disk::CopiedDisk& disk) { disk.start_record(); });
    if (const auto tracking = tracker_.restart(machine.memory()); tracking) {
      job.tracking = true;
      tracking_ = *tracking;
    } else {
      log::info("no incremental snapshot can follow: {}", tracking.error().message());
    }
  }
  if (job.request.live) return job.fork_writer();
  job.layer = TRY(job.write_memory());
  return {};
}

void Saver::finish() {
  thread_.join();
  auto job = std::move(job_);
  if (const auto& result = job->result; !result) {
    job->abandon_copies();
    job->writer.reset();  // nothing is left when the answer comes
    if (job->request.stop && !job->was_paused) job->machine->resume();
    job->done(std::unexpected(result.error()));
    return;
  }
  if (job->tracking) tracked_ = job->digest;
  struct stat status{};
  (void)::fstat(job->memory_file.get(), &status);
  std::int64_t disk_bytes = 0;
  for (const auto& copy : job->copies) {
    struct stat of_disk{};
    const auto path = job->writer->path_of(job->manifest.disks[copy.disk].file);
    if (::stat(path.c_str(), &of_disk) == 0) disk_bytes += std::int64_t{of_disk.st_blocks} * 512;
  }
  nlohmann::json json = {{"directory", job->writer->directory()},
                         {"digest", job->digest},
                         {"pause_ms", milliseconds(job->paused)},
                         {"total_ms", milliseconds(Clock::now() - job->begun)},
                         {"memory_bytes", std::int64_t{status.st_blocks} * 512},
                         {"disk_bytes", disk_bytes},
                         {"incremental", job->parent != nullptr},
                         {"live", job->request.live}};
  job->done(json.dump());
}

void Saver::settle() {
  // What the thread posted runs later and finds another job, or none.
  if (job_) finish();
}

void Saver::cancel() {
  if (!job_) return;
  job_->abandon_copies();
  if (job_->child) ::kill(job_->child->process, SIGKILL);
  settle();
}

}  // namespace vmm
