// BalloonDevice: virtio-balloon (virtio 1.2, 5.5). Takes memory from the guest on demand, gives the
// host back what the guest reports as free, and asks the guest how it fares.
//
//   BalloonDevice balloon(memory, loop);
//   TRY(balloon.set_target(512 << 20));            // the guest gives up 512 MiB, bit by bit
//   balloon.request_statistics([](Result<BalloonStatistics> answer) { ... });
//
// Serves on `loop`, whose thread must not wait for the one that calls activate or deactivate.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/virtio/balloon/balloon_statistics.h"
#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "src/base/event_loop.h"
#include "src/base/log.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::virtio {

struct BalloonAmounts {
  std::uint64_t target_bytes = 0;    // what the guest is to give up
  std::uint64_t actual_bytes = 0;    // what it says that it gave up
  std::uint64_t inflated_bytes = 0;  // given back by inflation, all in all
  std::uint64_t reported_bytes = 0;  // given back by free page reporting, all in all
};

class BalloonDevice : public Device, public MemoryTarget {
 public:
  using StatisticsCallback = std::function<void(Result<BalloonStatistics>)>;

  // Feature bits (5.5.3).
  static constexpr std::uint64_t kFeatureStatistics = 1ull << 1;
  static constexpr std::uint64_t kFeatureDeflateOnOom = 1ull << 2;
  static constexpr std::uint64_t kFeatureReporting = 1ull << 5;

  static constexpr std::uint32_t kPageSize = 4096;  // of this interface, whatever the guest's is
  // Page numbers in one chain; Linux sends 256.
  static constexpr std::size_t kMaxPages = 64u << 10;

  BalloonDevice(const GuestMemory& memory, EventLoop& loop);
  ~BalloonDevice() override;

  DeviceType type() const override { return DeviceType::balloon; }
  std::uint64_t features() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  void write_config(std::uint64_t offset, std::span<const std::byte> source) override;
  Result<void> activate(Activation activation) override;
  std::vector<std::optional<Queue>> deactivate() override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;
  // With what the guest says now, or said last if it does not answer in time.
  NamedValues metrics() override;
  MemoryTarget* memory_target() override { return this; }

  // Any thread.
  Result<void> set_target(std::uint64_t bytes) override;
  BalloonAmounts amounts() const;
  // Asks the guest; `callback` is called once, on the loop's thread, within three seconds.
  void request_statistics(StatisticsCallback callback);
  std::optional<BalloonStatistics> last_statistics() const;

 private:
  enum class Role : std::uint8_t { unused, inflate, deflate, statistics, reporting };
  struct Slot {
    Role role = Role::unused;
    std::unique_ptr<ServedQueue> served;
    std::optional<Queue> idle;  // enabled, and of no use here
  };
  struct Waiter {
    std::uint64_t id = 0;
    std::uint64_t timer = 0;
    StatisticsCallback callback;
  };

  Role role_of(std::size_t index, const Activation& activation) const;
  Handled handle(Role role, Chain& chain);
  Handled inflate(const Chain& chain);
  Handled report(const Chain& chain);
  Handled keep_statistics(Chain& chain);
  void break_device(std::string_view reason);
  void ask_statistics(StatisticsCallback callback);
  void answer_waiters(const Result<BalloonStatistics>& answer);
  std::uint64_t give_back(GuestAddress address, std::uint64_t length);

  const GuestMemory& memory_;
  EventLoop& loop_;
  // Tasks posted to the loop hold a weak reference, and do nothing once it is gone.
  std::shared_ptr<BalloonDevice*> self_;

  std::atomic<std::uint32_t> target_pages_{0};
  std::atomic<std::uint32_t> actual_pages_{0};
  std::atomic<std::uint64_t> inflated_bytes_{0};
  std::atomic<std::uint64_t> reported_bytes_{0};
  mutable std::mutex statistics_mutex_;  // guards last_statistics_
  std::optional<BalloonStatistics> last_statistics_;

  // All below: on the loop's thread.
  bool active_ = false;
  bool broken_ = false;
  Interrupts* interrupts_ = nullptr;
  std::vector<Slot> queues_;
  std::optional<Chain> statistics_chain_;  // kept until the guest is to be asked again
  std::vector<Waiter> waiters_;
  std::uint64_t next_waiter_ = 1;
  log::RateLimit log_limit_;
};

}  // namespace vmm::virtio
