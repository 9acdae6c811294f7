// Requests a second of the block device, driven by rings in memory: everything but the guest's own
// work and its exits. The driver suppresses kicks and interrupts as Linux does (EVENT_IDX) and
// sleeps until it is interrupted, as a vCPU that has nothing else to do.
//
//   disk_bench FILE [automatic|uring|threads] [direct]
#include <fcntl.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

#include "devices/virtio/blk/block_device.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm {
namespace {

constexpr std::uint16_t kEntries = 256;
constexpr std::uint64_t kDescriptors = 0x1000, kAvail = 0x3000, kUsed = 0x4000, kHeaders = 0x8000,
                        kStatuses = 0xc000, kTables = 0x10000, kData = 0x200000;
constexpr std::uint32_t kPiece = 4096;  // of a guest's scattered buffers

class Interrupts : public virtio::Interrupts {
 public:
  Interrupts() : event_(std::move(EventFd::create().value())) {
    ::fcntl(event_.fd(), F_SETFL, 0);  // wait() blocks
  }
  void queue_used(std::uint16_t) override {
    ++count;
    event_.signal();
  }
  void config_changed() override {}
  void needs_reset(std::string_view reason) override {
    std::fprintf(stderr, "needs reset: %.*s\n", static_cast<int>(reason.size()), reason.data());
  }
  Result<int> queue_event_fd(std::uint16_t) override { return fail("none"); }
  void wait() { (void)event_.consume(); }
  std::atomic<std::uint64_t> count{0};

 private:
  EventFd event_;
};

struct Load {
  const char* name;
  bool write;
  bool sequential;
  std::uint32_t size;
  std::uint16_t depth;
};

class Driver {
 public:
  Driver(virtio::BlockDevice& device, const GuestMemory& memory)
      : memory_(memory), kick_(std::move(EventFd::create().value())) {
    virtio::QueueConfig config;
    config.size = kEntries;
    config.descriptors = GuestAddress{kDescriptors};
    config.avail = GuestAddress{kAvail};
    config.used = GuestAddress{kUsed};
    const auto features = device.features() | virtio::kFeatureVersion1;
    virtio::Activation activation;
    activation.features = features;
    activation.interrupts = &interrupts_;
    activation.queues.emplace_back(
        virtio::ActiveQueue{virtio::Queue::create(memory, config, features).value(), &kick_});
    if (!device.activate(std::move(activation))) std::abort();
    sectors_ = device.disk().info().size / 512;
  }

  void run(const Load& load, std::chrono::milliseconds time) {
    interrupts_.count = 0;
    std::uint64_t done = 0, kicks = 0;
    rusage before{}, after{};
    ::getrusage(RUSAGE_SELF, &before);
    const auto start = std::chrono::steady_clock::now();
    for (std::uint16_t slot = 0; slot < load.depth; ++slot) submit(load, slot);
    kicks += kick();
    std::uint32_t in_flight = load.depth;
    while (in_flight > 0) {
      if (seen_ == at<std::uint16_t>(kUsed + 2).load(std::memory_order_acquire)) {
        // Ask for the next one's interrupt, then look again.
        at<std::uint16_t>(kAvail + 4 + 2 * kEntries).store(seen_);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (seen_ == at<std::uint16_t>(kUsed + 2).load()) interrupts_.wait();
        continue;
      }
      const bool more = std::chrono::steady_clock::now() - start < time;
      while (seen_ != at<std::uint16_t>(kUsed + 2).load(std::memory_order_acquire)) {
        std::uint32_t head = 0;
        std::memcpy(&head, host(kUsed + 4 + 8u * (seen_ % kEntries), 4), 4);
        ++seen_;
        ++done;
        if (*host(kStatuses + head, 1) != std::byte{0}) std::puts("an error");
        if (more) {
          submit(load, static_cast<std::uint16_t>(head));
        } else {
          --in_flight;
        }
      }
      kicks += kick();
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ::getrusage(RUSAGE_SELF, &after);
    const auto cpu = [](const rusage& u) {
      return static_cast<double>(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
             static_cast<double>(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    };
    const auto count = static_cast<double>(done);
    std::printf("%-24s %9.0f /s %8.1f MiB/s %7.2f us CPU each, %.2f kicks, %.2f interrupts\n",
                load.name, count / seconds, count * load.size / seconds / (1 << 20),
                (cpu(after) - cpu(before)) * 1e6 / count, static_cast<double>(kicks) / count,
                static_cast<double>(interrupts_.count.load()) / count);
  }

 private:
  std::byte* host(std::uint64_t address, std::uint64_t size) const {
    return memory_.host_pointer(GuestAddress{address}, size);
  }
  template <typename T>
  std::atomic_ref<T> at(std::uint64_t address) const {
    return std::atomic_ref(*reinterpret_cast<T*>(host(address, sizeof(T))));
  }

  // One indirect table a slot: header, pages, status.
  void submit(const Load& load, std::uint16_t slot) {
    struct Descriptor {
      std::uint64_t address;
      std::uint32_t length;
      std::uint16_t flags, next;
    };
    const std::uint64_t table = kTables + std::uint64_t{slot} * 0x2000;
    const std::uint32_t pieces = load.size / kPiece;
    const std::uint64_t span = load.size / 512;
    const std::uint64_t sector = load.sequential ? (next_ += span) % (sectors_ / span * span)
                                                 : random_() % (sectors_ / span) * span;
    const virtio::blk::RequestHeader header{load.write ? 1u : 0u, 0, sector / span * span};
    std::memcpy(host(kHeaders + 16u * slot, 16), &header, 16);
    auto* entry = reinterpret_cast<Descriptor*>(host(table, 16u * (pieces + 2)));
    std::uint16_t index = 0;
    entry[index++] = {kHeaders + 16u * slot, 16, 1, 1};
    for (std::uint32_t i = 0; i < pieces; ++i) {
      const auto next = static_cast<std::uint16_t>(index + 1);
      const std::uint64_t data =
          kData + std::uint64_t{slot} * load.size + std::uint64_t{i} * kPiece;
      entry[index++] = {data, kPiece, static_cast<std::uint16_t>(load.write ? 1 : 3), next};
    }
    entry[index] = {kStatuses + slot, 1, 2, 0};
    *host(kStatuses + slot, 1) = std::byte{0xff};
    const Descriptor head{table, 16 * (pieces + 2), 4, 0};
    std::memcpy(host(kDescriptors + 16u * slot, 16), &head, 16);
    at<std::uint16_t>(kAvail + 4 + 2u * (avail_ % kEntries)).store(slot, std::memory_order_relaxed);
    ++avail_;
    at<std::uint16_t>(kAvail + 2).store(avail_, std::memory_order_release);
  }

  // Whether the device wanted to be kicked for what was added since the last call.
  bool kick() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto event = at<std::uint16_t>(kUsed + 4 + 8 * kEntries).load();
    const bool wanted = static_cast<std::uint16_t>(avail_ - event - 1) <
                        static_cast<std::uint16_t>(avail_ - kicked_);
    kicked_ = avail_;
    if (wanted) kick_.signal();
    return wanted;
  }

  const GuestMemory& memory_;
  EventFd kick_;
  Interrupts interrupts_;
  std::uint64_t sectors_ = 0, next_ = 0;
  std::uint16_t avail_ = 0, kicked_ = 0, seen_ = 0;
  std::mt19937_64 random_{1};
};

int run(int argc, char** argv) {
  if (argc < 2) {
    std::puts("usage: disk_bench FILE [automatic|uring|threads] [direct]");
    return 2;
  }
  disk::DiskConfig config;
  config.path = argv[1];
  const std::string_view engine = argc > 2 ? argv[2] : "automatic";
  if (engine == "uring") config.io = disk::IoEngine::uring;
  if (engine == "threads") config.io = disk::IoEngine::threads;
  config.direct = argc > 3 && std::string_view(argv[3]) == "direct";
  auto device = virtio::BlockDevice::create(config, "blk0");
  if (!device) {
    std::puts(device.error().message().c_str());
    return 1;
  }
  const MemoryRange range{GuestAddress{0}, 128u << 20};
  const auto memory = std::move(GuestMemory::create({&range, 1}).value());
  Driver driver(**device, *memory);
  const Load loads[] = {
      {"4K random read, 1", false, false, 4096, 1},
      {"4K random read, 32", false, false, 4096, 32},
      {"4K random write, 1", true, false, 4096, 1},
      {"4K random write, 32", true, false, 4096, 32},
      {"1M sequential read, 1", false, true, 1u << 20, 1},
      {"1M sequential read, 8", false, true, 1u << 20, 8},
      {"1M sequential write, 1", true, true, 1u << 20, 1},
      {"1M sequential write, 8", true, true, 1u << 20, 8},
  };
  for (const auto& load : loads) driver.run(load, std::chrono::milliseconds(1500));
  (void)(*device)->deactivate();
  return 0;
}

}  // namespace
}  // namespace vmm

int main(int argc, char** argv) { return vmm::run(argc, argv); }
