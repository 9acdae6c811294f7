// The persistent memory device's queue, whose chains may read from the device itself.
#include "devices/virtio/pmem/pmem_device.h"
#include "tests/fuzz/device_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::FuzzGuest guest;
  static const auto pmem = std::move(
      virtio::PmemDevice::create({.slot_size = 2u << 20}, "pmem0", guest.memory(), guest.loop())
          .value());
  std::span input(data, size);
  virtio::Activation activation;
  activation.features = fuzz::take_features(input, pmem->features());
  activation.interrupts = &guest.interrupts();
  guest.load(input);
  activation.queues.emplace_back(guest.queue(0, activation.features));
  if (!pmem->activate(std::move(activation))) return 0;
  guest.kick(0);
  guest.turn();
  (void)pmem->deactivate();
  return 0;
}
