#include "devices/virtio/net/control_queue.h"

namespace vmm::virtio {
namespace {

// Classes and their commands.
constexpr std::uint8_t kClassMac = 1, kMacAddressSet = 1;
constexpr std::uint8_t kClassMq = 4, kPairsSet = 0;
constexpr std::uint8_t kClassOffloads = 5, kOffloadsSet = 0;
constexpr std::uint8_t kOk = 0, kError = 1;

struct CommandHeader {
  std::uint8_t kind;
  std::uint8_t command;
};

}  // namespace

ControlQueue::ControlQueue(std::uint16_t index, ActiveQueue queue, Interrupts& interrupts,
                           Handlers handlers)
    : index_(index),
      idle_(std::move(queue)),
      interrupts_(interrupts),
      handlers_(std::move(handlers)) {}

Result<void> ControlQueue::attach(EventLoop& loop) {
  // At most a ring's worth a turn: the others of this loop wait.
  const std::size_t budget = idle_.queue.size();
  served_ = std::make_unique<ServedQueue>(
      loop, index_, std::move(idle_), interrupts_, budget,
      [this](const Chain& chain) { return serve(chain); }, handlers_.broken);
  return served_->start();
}

void ControlQueue::detach() {
  if (!served_) return;
  idle_.queue = served_->stop();
  served_.reset();
}

Handled ControlQueue::serve(const Chain& chain) {
  if (chain.readable_size() < sizeof(CommandHeader) || chain.writable_size() == 0) {
    return Handled::refused("a control chain that is no command");
  }
  const std::uint8_t answer = execute(chain.readable(), chain.readable_size()) ? kOk : kError;
  // The answer is the last byte of the chain.
  (void)copy_to_buffers(chain.writable(), chain.writable_size() - 1,
                        std::as_bytes(std::span(&answer, 1)));
  return Handled::used(chain.writable_size());
}

bool ControlQueue::execute(std::span<const iovec> command, std::uint64_t size) {
  const auto header = read_struct<CommandHeader>(command);
  if (!header) return false;
  const std::size_t at = sizeof *header;
  if (header->kind == kClassMq && header->command == kPairsSet) {
    const auto pairs = read_struct<std::uint16_t>(command, at);
    return pairs && handlers_.set_pairs(*pairs);
  }
  if (header->kind == kClassMac && header->command == kMacAddressSet) {
    const auto mac = read_struct<net::MacAddress>(command, at);
    return mac && size == at + sizeof *mac && handlers_.set_mac(*mac);
  }
  if (header->kind == kClassOffloads && header->command == kOffloadsSet) {
    const auto features = read_struct<std::uint64_t>(command, at);
    return features && handlers_.set_offloads(*features);
  }
  return false;
}

}  // namespace vmm::virtio
