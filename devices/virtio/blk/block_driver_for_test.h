// The guest's end of a block device: its memory, rings and interrupts.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/device_suite_test.h"

namespace vmm::virtio::blk {

class BlockDriver {
 public:
  // `memory` in bytes: buffers are never used again.
  BlockDriver(std::uint64_t memory, std::uint16_t queues, std::uint16_t ring_size)
      : ring_size_(ring_size), ram_(memory), rings_(queues) {
    make_rings();
  }

  void activate(BlockDevice& device, std::uint64_t features) {
    ASSERT_TRUE(
        device.activate(test::activation_of(ram_.memory(), features, pointers(), interrupts_)));
  }
  void resume(BlockDevice& device, std::vector<std::optional<Queue>> queues) {
    EXPECT_TRUE(
        device.activate(resumption(std::move(queues), device.features(), pointers(), interrupts_)));
  }
  // Of a device that is not active.
  void make_rings() {
    for (auto& ring : rings_) ring = std::make_unique<test::DriverQueue>(ram_, ring_size_);
  }

  static test::BufferSpec header(std::uint32_t type, std::uint64_t sector = 0) {
    return test::readable_struct(RequestHeader{type, 0, sector});
  }
  // The head of the chain.
  std::uint16_t ask(const std::vector<test::BufferSpec>& buffers, std::size_t index = 0) {
    const auto head = ring(index).add(buffers);
    ring(index).kick();
    return head;
  }

  test::DriverQueue& ring(std::size_t index = 0) { return *rings_[index]; }
  test::TestInterrupts& interrupts() { return interrupts_; }
  test::GuestRam& ram() { return ram_; }

 private:
  std::vector<test::DriverQueue*> pointers() const {
    std::vector<test::DriverQueue*> pointers;
    for (const auto& ring : rings_) pointers.push_back(ring.get());
    return pointers;
  }

  const std::uint16_t ring_size_;
  test::GuestRam ram_;
  test::TestInterrupts interrupts_;
  std::vector<std::unique_ptr<test::DriverQueue>> rings_;
};

}  // namespace vmm::virtio::blk
