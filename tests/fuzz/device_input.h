// What the device fuzzers share: a guest's memory whose start, rings included, is the fuzzer's
// input, so that it plays the driver with all liberties.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/device.h"
#include "src/base/event_fd.h"
#include "src/base/event_loop.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::fuzz {

inline constexpr std::uint64_t kMemorySize = 64u << 10;
inline constexpr std::uint16_t kQueueSize = 16;
// Each queue's rings take 1 KiB: descriptors, avail at +0x100, used at +0x200.
inline constexpr std::uint64_t kQueueStride = 0x400;

class NoInterrupts : public virtio::Interrupts {
 public:
  void queue_used(std::uint16_t) override {}
  void config_changed() override {}
  void needs_reset(std::string_view) override {}
  Result<int> queue_event_fd(std::uint16_t) override { return fail("no eventfd"); }
};

class FuzzGuest {
 public:
  FuzzGuest() {
    const MemoryRange range{GuestAddress{0}, kMemorySize};
    memory_ = std::move(GuestMemory::create({&range, 1}).value());
    loop_ = std::move(EventLoop::create().value());
  }

  GuestMemory& memory() { return *memory_; }
  EventLoop& loop() { return *loop_; }
  virtio::Interrupts& interrupts() { return interrupts_; }

  // The input becomes the start of the memory, the rest is zero.
  void load(std::span<const std::uint8_t> input) {
    std::byte* host = memory_->host_pointer(GuestAddress{0}, kMemorySize);
    const std::size_t size = std::min<std::size_t>(input.size(), kMemorySize);
    if (size > 0) std::memcpy(host, input.data(), size);
    std::memset(host + size, 0, kMemorySize - size);
  }

  virtio::ActiveQueue queue(std::size_t index, std::uint64_t features) {
    while (kicks_.size() <= index) {
      kicks_.push_back(std::make_unique<EventFd>(std::move(EventFd::create().value())));
    }
    const GuestAddress base{index * kQueueStride};
    virtio::QueueConfig config;
    config.size = kQueueSize;
    config.descriptors = base;
    config.avail = base + 0x100;
    config.used = base + 0x200;
    return {virtio::Queue::create(*memory_, config, features).value(), kicks_[index].get()};
  }
  void kick(std::size_t index) { kicks_.at(index)->signal(); }
  // Lets the loop serve what is due.
  void turn() {
    loop_->stop();
    loop_->run();
  }

 private:
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<EventLoop> loop_;
  std::vector<std::unique_ptr<EventFd>> kicks_;
  NoInterrupts interrupts_;
};

// Takes the first byte off the input: which features the driver negotiates.
inline std::uint64_t take_features(std::span<const std::uint8_t>& input, std::uint64_t offered) {
  if (input.empty()) return 0;
  const std::uint8_t choice = input.front();
  input = input.subspan(1);
  std::uint64_t features = virtio::kFeatureVersion1;
  if ((choice & 1) != 0) features |= virtio::kFeatureIndirectDescriptors;
  if ((choice & 2) != 0) features |= virtio::kFeatureEventIdx;
  if ((choice & 4) != 0) features |= offered;
  return features;
}

}  // namespace vmm::fuzz
