// What a device's loop costs a chain: rings are filled again and again with the same chain, in
// memory, without a guest.
//
//   queue_bench [SECONDS]        a line a queue: CPU time of the device's thread, the least of nine
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <vector>

#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/packet.h"
#include "devices/virtio/vsock/vsock_device.h"
#include "src/base/worker.h"
#include "tests/support/virtio_driver.h"

namespace vmm {
namespace {

using Clock = std::chrono::steady_clock;
using test::DriverQueue;

class Bench {
 public:
  explicit Bench(double seconds) : seconds_(seconds / kRuns) {}
  EventLoop& loop() { return worker_->loop(); }

  // Activates `device` with queues of these sizes and fills number `index` with that chain.
  void run(const char* name, virtio::Device& device, std::vector<std::uint16_t> sizes,
           std::size_t index, const test::BufferSpec& buffer) {
    std::vector<std::unique_ptr<DriverQueue>> queues;
    std::vector<DriverQueue*> pointers;
    for (const auto size : sizes) {
      pointers.push_back(size == 0 ? nullptr
                                   : queues.emplace_back(new DriverQueue(ram_, size)).get());
    }
    test::TestInterrupts interrupts;
    const auto activated = device.activate(
        test::activation_of(ram_.memory(), device.features(), pointers, interrupts));
    if (!activated) {
      fmt::print("{}: {}\n", name, activated.error().message());
      return;
    }
    auto& driver = *pointers[index];
    const auto head = driver.add({buffer});
    driver.kick();
    std::uint16_t offered = 1;
    wait(driver, offered);
    std::array<double, kRuns> costs{};
    for (auto& cost : costs) cost = run_once(driver, head, sizes[index], offered);
    fmt::print("{:<16} {:8.1f} ns a chain\n", name, *std::ranges::min_element(costs));
    (void)device.deactivate();
  }
  test::GuestRam& ram() { return ram_; }

 private:
  static constexpr std::size_t kRuns = 9;

  static void wait(const DriverQueue& driver, std::uint16_t offered) {
    while (driver.used_index() != offered) {
    }
  }
  // Of the device's thread.
  double cpu_seconds() const {
    timespec time{};
    worker_->loop().call([&] { ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time); });
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
  double run_once(DriverQueue& driver, std::uint16_t head, std::uint16_t size,
                  std::uint16_t& offered) const {
    const auto begin = Clock::now();
    std::uint64_t chains = 0;
    const double before = cpu_seconds();
    while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds_) {
      for (unsigned i = 0; i < size; ++i) driver.offer(head);
      offered = static_cast<std::uint16_t>(offered + size);
      driver.kick();
      wait(driver, offered);
      chains += size;
    }
    return (cpu_seconds() - before) * 1e9 / static_cast<double>(chains);
  }

  test::GuestRam ram_{16u << 20};
  std::unique_ptr<Worker> worker_ = std::move(Worker::start("bench").value());
  const double seconds_;
};

int run(double seconds) {
  Bench bench(seconds);
  {
    virtio::RngDevice rng(bench.loop());
    bench.run("rng", rng, {64}, 0, test::writable(8));
  }
  {
    virtio::BalloonDevice balloon(bench.ram().memory(), bench.loop());
    bench.run("balloon deflate", balloon, {128, 128, 16, 0, 0}, 1, test::readable("page"));
  }
  {
    // Of another address: taken and dropped.
    const auto device =
        std::move(virtio::VsockDevice::create({.cid = 3, .path = {}}, bench.loop()).value());
    const virtio::vsock::PacketHeader header{.source_cid = 9, .target_cid = 2};
    bench.run("vsock transmit", *device, {256, 256, 16}, 1, test::readable_struct(header));
  }
  return 0;
}

}  // namespace
}  // namespace vmm

int main(int argc, char** argv) { return vmm::run(argc > 1 ? std::atof(argv[1]) : 9.0); }
