// The balloon device's queues.
#include "devices/virtio/balloon/balloon_device.h"
#include "tests/fuzz/device_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::FuzzGuest guest;
  std::span input(data, size);
  virtio::BalloonDevice balloon(guest.memory(), guest.loop());
  virtio::Activation activation;
  activation.features = fuzz::take_features(input, balloon.features());
  activation.interrupts = &guest.interrupts();
  guest.load(input);
  const std::size_t queues = balloon.queue_sizes().size();
  for (std::size_t i = 0; i < queues; ++i) {
    activation.queues.emplace_back(guest.queue(i, activation.features));
  }
  if (!balloon.activate(std::move(activation))) return 0;
  balloon.request_statistics([](auto) {});
  for (std::size_t i = 0; i < queues; ++i) guest.kick(i);
  guest.turn();
  balloon.write_config(size % 16, std::as_bytes(std::span(data, std::min<std::size_t>(size, 8))));
  (void)balloon.deactivate();
  return 0;
}
