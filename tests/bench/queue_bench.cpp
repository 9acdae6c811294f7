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
#include "devices/virtio/net/queue_pair.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/packet.h"
#include "devices/virtio/vsock/vsock_device.h"
#include "src/base/worker.h"
#include "src/user_net/virtio_net.h"
#include "tests/support/virtio_driver.h"

namespace vmm {
namespace {

using Clock = std::chrono::steady_clock;
using test::DriverQueue;

constexpr std::size_t kFrame = 60;

// Takes every frame, and always has one.
class Network : public net::NetBackend {
 public:
  unsigned queue_pairs() const override { return 1; }
  std::uint64_t features() const override { return 0; }
  Result<void> start(std::uint64_t) override { return {}; }
  void stop() override {}
  Result<void> set_offloads(std::uint64_t) override { return {}; }
  Result<void> set_active_pairs(unsigned) override { return {}; }
  int fd(unsigned) const override { return event_.fd(); }
  net::SendResult send(unsigned, std::span<const net::Frame> frames) override {
    return {frames.size(), 0, net::IoState::ready};
  }
  net::ReceiveResult receive(unsigned, std::span<const iovec>) override {
    return {net::kHeaderSize + kFrame, net::IoState::ready};
  }

 private:
  EventFd event_ = std::move(EventFd::create().value());
};

// A pair of a card's queues, on the bench's loop.
class CardPair : public virtio::Device {
 public:
  explicit CardPair(EventLoop& loop) : loop_(loop) {}
  virtio::DeviceType type() const override { return virtio::DeviceType::net; }
  std::uint64_t features() const override {
    return virtio_net::kMrgRxbuf | virtio::kFeatureEventIdx | virtio::kFeatureIndirectDescriptors;
  }
  std::vector<std::uint16_t> queue_sizes() const override { return {256, 256}; }
  void read_config(std::uint64_t, std::span<std::byte>) const override {}
  Result<void> activate(virtio::Activation activation) override {
    pair_ = std::make_shared<virtio::QueuePair>(
        0,
        virtio::PairContext{.backend = &network_,
                            .interrupts = activation.interrupts,
                            .counters = &counters_,
                            .broken = &broken_,
                            .link_lost = [] {},
                            .features = activation.features},
        std::move(*activation.queues[0]), std::move(*activation.queues[1]));
    Result<void> attached;
    loop_.call([&] { attached = pair_->attach(loop_); });
    return attached;
  }
  std::vector<std::optional<virtio::Queue>> deactivate() override {
    loop_.call([&] { pair_->detach(); });
    return {};
  }
  void save(state::Sections&, std::string_view) const override {}
  Result<void> restore(state::Sections&, std::string_view) override { return {}; }
  NamedValues metrics() override { return {}; }

 private:
  EventLoop& loop_;
  Network network_;
  virtio::NetCounters counters_;
  std::atomic<bool> broken_{false};
  std::shared_ptr<virtio::QueuePair> pair_;
};

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
  {
    CardPair card(bench.loop());
    bench.run("net transmit", card, {256, 256}, 1,
              test::readable(std::string(net::kHeaderSize + kFrame, 0)));
  }
  {
    CardPair card(bench.loop());
    bench.run("net receive", card, {256, 256}, 0, test::writable(2048));
  }
  return 0;
}

}  // namespace
}  // namespace vmm

int main(int argc, char** argv) { return vmm::run(argc > 1 ? std::atof(argv[1]) : 9.0); }
