// The entropy device's queue.
#include "devices/virtio/rng/rng_device.h"
#include "tests/fuzz/device_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::FuzzGuest guest;
  std::span input(data, size);
  virtio::RngDevice rng(guest.loop());
  virtio::Activation activation;
  activation.features = fuzz::take_features(input, rng.features());
  activation.interrupts = &guest.interrupts();
  guest.load(input);
  activation.queues.emplace_back(guest.queue(0, activation.features));
  if (!rng.activate(std::move(activation))) return 0;
  guest.kick(0);
  guest.turn();
  (void)rng.deactivate();
  return 0;
}
