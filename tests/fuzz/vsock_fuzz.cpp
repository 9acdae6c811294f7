// The vsock device: packets in the guest's rings, and hosts that connect and write.
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "devices/virtio/vsock/vsock_device.h"
#include "src/base/unix_socket.h"
#include "tests/fuzz/device_input.h"

namespace vmm::fuzz {
namespace {

struct World {
  FuzzGuest guest;
  std::string path = "/tmp/vsock-fuzz-" + std::to_string(::getpid());
  UnixListener host = std::move(UnixListener::create(path + "_1").value());
  std::unique_ptr<virtio::VsockDevice> device =
      std::move(virtio::VsockDevice::create({.cid = 3, .path = path}, guest.loop()).value());
};

void say(const UniqueFd& socket, std::string_view text) {
  (void)!::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace
}  // namespace vmm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::World world;  // its sockets go at exit
  auto& guest = world.guest;
  auto& device = *world.device;
  std::span input(data, size);
  const auto features = fuzz::take_features(input, device.features());
  std::uint8_t choice = 0;
  if (!input.empty()) {
    choice = input.front();
    input = input.subspan(1);
  }
  UniqueFd client;
  if ((choice & 1) != 0) {
    client = std::move(connect_unix(world.path).value());
    const std::size_t length = std::min<std::size_t>(input.size(), choice >> 4);
    fuzz::say(client, (choice & 2) != 0
                          ? std::string_view("CONNECT 1\nhello")
                          : std::string_view(reinterpret_cast<const char*>(input.data()), length));
  }
  guest.load(input);
  virtio::Activation activation;
  activation.features = features;
  activation.interrupts = &guest.interrupts();
  for (std::size_t i = 0; i < 3; ++i) activation.queues.emplace_back(guest.queue(i, features));
  if (!device.activate(std::move(activation))) return 0;
  std::vector<UniqueFd> accepted;
  for (int turn = 0; turn < 3; ++turn) {
    for (std::size_t queue = 0; queue < 3; ++queue) guest.kick(queue);
    guest.turn();
    while (UniqueFd socket = world.host.accept()) accepted.push_back(std::move(socket));
    for (const auto& socket : accepted) fuzz::say(socket, "some bytes");
    if ((choice & 4) != 0) accepted.clear();
    if (turn == 1 && (choice & 8) != 0) client.reset();
  }
  device.transport_reset();
  for (const auto& queue : device.deactivate()) {
    if (queue && queue->in_flight() != 0) __builtin_trap();
  }
  return 0;
}
