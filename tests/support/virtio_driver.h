// The guest's side of virtio in memory, for tests: rings, chains, kicks and interrupts, no KVM.
//
//   GuestMemoryFixture guest;                       // 16 MiB of RAM with an allocator
//   DriverQueue driver(guest, 64);                  // rings in it
//   driver.add({{readable("hello")}, {writable(512)}});
//   TestInterrupts interrupts;
//   device.activate(activation_of(features, {&driver}, interrupts));
//   driver.kick();
//   const auto used = driver.wait_used();           // {head, written}, or fails after 10 s
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "devices/virtio/device.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::test {

class GuestRam {
 public:
  explicit GuestRam(std::uint64_t size = 16u << 20);
  const GuestMemory& memory() const { return *memory_; }
  GuestMemory& memory() { return *memory_; }
  // Zeroed bytes, aligned to a page when that large, to 16 otherwise. Never given back.
  GuestAddress allocate(std::uint64_t size);
  std::byte* host(GuestAddress address, std::uint64_t size) const;
  std::string text(GuestAddress address, std::uint64_t size) const;

 private:
  std::unique_ptr<GuestMemory> memory_;
  std::uint64_t next_ = 0x1000;
};

// Counts what the device signals; wait_* give up after ten seconds.
class TestInterrupts : public virtio::Interrupts {
 public:
  void queue_used(std::uint16_t queue) override;
  void config_changed() override;
  void needs_reset(std::string_view reason) override;
  Result<int> queue_event_fd(std::uint16_t queue) override;

  bool wait_queue_used(std::uint16_t queue, unsigned count = 1);
  bool wait_config_changed(unsigned count = 1);
  unsigned config_changes();
  bool wait_needs_reset();
  bool is_reset_needed();
  std::string reason();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<unsigned> used_ = std::vector<unsigned>(64);
  unsigned config_changes_ = 0;
  bool reset_needed_ = false;
  std::string reason_;
  std::vector<EventFd> event_fds_;
};

struct BufferSpec {
  std::string content;     // what a readable buffer holds
  std::uint32_t size = 0;  // bytes
  bool writable = false;
};
inline BufferSpec readable(std::string content) {
  const auto size = static_cast<std::uint32_t>(content.size());
  return {std::move(content), size, false};
}
template <typename T>
BufferSpec readable_struct(const T& value) {
  return readable(std::string(reinterpret_cast<const char*>(&value), sizeof value));
}
inline BufferSpec writable(std::uint32_t size) { return {"", size, true}; }

struct RawDescriptor {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};
inline constexpr std::uint16_t kDescNext = 1, kDescWrite = 2, kDescIndirect = 4;

struct Used {
  std::uint16_t head = 0;
  std::uint32_t written = 0;
};

class DriverQueue {
 public:
  DriverQueue(GuestRam& ram, std::uint16_t size);

  const virtio::QueueConfig& config() const { return config_; }
  const EventFd& kick_fd() const { return kick_; }

  // Lays the buffers out, makes them available and returns the head. The rings' free descriptors
  // are taken in order and never reused: size the queue for the test.
  std::uint16_t add(const std::vector<BufferSpec>& buffers);
  std::uint16_t add_indirect(const std::vector<BufferSpec>& buffers);
  // For hostile drivers: writes a descriptor as it is; offers a head as it is.
  void set_descriptor(std::uint16_t index, const RawDescriptor& descriptor);
  void offer(std::uint16_t head);
  void set_avail_index(std::uint16_t index);
  void kick() { kick_.signal(); }
  // Whether the device wants to hear of the chain that was added last (EVENT_IDX).
  bool wants_kick() const;

  // Where the buffers of add() lie: by head, then by position in the chain.
  GuestAddress address(std::uint16_t head, std::size_t buffer) const;
  std::string text(std::uint16_t head, std::size_t buffer) const;

  std::optional<Used> poll_used();
  // Polls for up to ten seconds.
  std::optional<Used> wait_used();
  std::uint16_t used_index() const;

 private:
  struct Placed {
    GuestAddress address;
    std::uint32_t size;
  };
  std::vector<RawDescriptor> place(const std::vector<BufferSpec>& buffers,
                                   std::vector<Placed>& placed);
  GuestRam& ram_;
  virtio::QueueConfig config_;
  EventFd kick_;
  std::uint16_t next_descriptor_ = 0;
  std::uint16_t avail_index_ = 0;
  std::uint16_t seen_used_ = 0;
  std::vector<std::vector<Placed>> placed_;  // by head
};

// What a transport would pass to Device::activate for these queues (null: not enabled).
virtio::Activation activation_of(const GuestMemory& memory, std::uint64_t features,
                                 const std::vector<DriverQueue*>& queues,
                                 virtio::Interrupts& interrupts);

}  // namespace vmm::test
