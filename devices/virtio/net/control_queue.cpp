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
      queue_(std::move(queue)),
      interrupts_(interrupts),
      handlers_(std::move(handlers)) {}

Result<void> ControlQueue::attach(EventLoop& loop) {
  TRY(loop.watch(queue_.kick->fd(), EPOLLIN | EPOLLET, [this](std::uint32_t) { run(); }));
  loop_ = &loop;
  run();
  return {};
}

void ControlQueue::detach() {
  if (loop_ == nullptr) return;
  loop_->forget(queue_.kick->fd());
  loop_ = nullptr;
}

void ControlQueue::run() {
  const auto give_up = [this](std::string_view reason) {
    broken_ = true;
    handlers_.broken(reason);
  };
  if (broken_) return;
  // At most a ring's worth a turn: the others of this loop wait.
  for (unsigned i = 0; i < queue_.queue.size(); ++i) {
    auto popped = queue_.queue.pop();
    if (!popped) return give_up(popped.error().message());
    if (!*popped) {
      if (queue_.queue.enable_kicks()) continue;
      break;
    }
    auto& chain = **popped;
    if (chain.readable_size() < sizeof(CommandHeader) || chain.writable_size() == 0) {
      queue_.queue.unpop(std::move(chain));
      return give_up("a control chain that is no command");
    }
    const std::uint8_t answer = execute(chain.readable(), chain.readable_size()) ? kOk : kError;
    // The answer is the last byte of the chain.
    (void)copy_to_buffers(chain.writable(), chain.writable_size() - 1,
                          std::as_bytes(std::span(&answer, 1)));
    const auto written = static_cast<std::uint32_t>(chain.writable_size());
    queue_.queue.push(std::move(chain), written);
  }
  if (queue_.queue.take_notification()) interrupts_.queue_used(index_);
  if (queue_.queue.enable_kicks()) queue_.kick->signal();
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
