#include "tests/support/virtio_driver.h"

#include <chrono>
#include <thread>

namespace vmm::test {
namespace {

constexpr auto kPatience = std::chrono::seconds(10);

}  // namespace

GuestRam::GuestRam(std::uint64_t size) {
  const MemoryRange range{GuestAddress{0}, size};
  memory_ = std::move(GuestMemory::create({&range, 1}).value());
}

GuestAddress GuestRam::allocate(std::uint64_t size) {
  const std::uint64_t alignment = size >= 4096 ? 4096 : 16;
  next_ = (next_ + alignment - 1) & ~(alignment - 1);
  const GuestAddress address{next_};
  next_ += size;
  EXPECT_LE(next_, memory_->size()) << "the test's guest memory is full";
  return address;
}

std::byte* GuestRam::host(GuestAddress address, std::uint64_t size) const {
  std::byte* pointer = memory_->host_pointer(address, size);
  EXPECT_NE(pointer, nullptr);
  return pointer;
}

std::string GuestRam::text(GuestAddress address, std::uint64_t size) const {
  return std::string(reinterpret_cast<const char*>(host(address, size)), size);
}

void TestInterrupts::queue_used(std::uint16_t queue) {
  std::lock_guard lock(mutex_);
  ++used_.at(queue);
  changed_.notify_all();
}
void TestInterrupts::config_changed() {
  std::lock_guard lock(mutex_);
  ++config_changes_;
  changed_.notify_all();
}
void TestInterrupts::needs_reset(std::string_view reason) {
  std::lock_guard lock(mutex_);
  reset_needed_ = true;
  reason_ = reason;
  changed_.notify_all();
}
Result<int> TestInterrupts::queue_event_fd(std::uint16_t) {
  event_fds_.push_back(TRY(EventFd::create()));
  return event_fds_.back().fd();
}
bool TestInterrupts::wait_queue_used(std::uint16_t queue, unsigned count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return used_.at(queue) >= count; });
}
bool TestInterrupts::wait_config_changed(unsigned count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return config_changes_ >= count; });
}
unsigned TestInterrupts::config_changes() {
  std::lock_guard lock(mutex_);
  return config_changes_;
}

bool TestInterrupts::wait_needs_reset() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return reset_needed_; });
}
bool TestInterrupts::is_reset_needed() {
  std::lock_guard lock(mutex_);
  return reset_needed_;
}
std::string TestInterrupts::reason() {
  std::lock_guard lock(mutex_);
  return reason_;
}

DriverQueue::DriverQueue(GuestRam& ram, std::uint16_t size)
    : ram_(ram), kick_(std::move(EventFd::create().value())), placed_(size) {
  config_.size = size;
  config_.descriptors = ram.allocate(std::uint64_t{16} * size);
  config_.avail = ram.allocate(std::uint64_t{2} * size + 6);
  config_.used = ram.allocate(std::uint64_t{8} * size + 6);
}

std::vector<RawDescriptor> DriverQueue::place(const std::vector<BufferSpec>& buffers,
                                              std::vector<Placed>& placed) {
  std::vector<RawDescriptor> descriptors;
  for (const auto& buffer : buffers) {
    const GuestAddress address = ram_.allocate(std::max<std::uint32_t>(buffer.size, 1));
    std::memcpy(ram_.host(address, buffer.size), buffer.content.data(), buffer.content.size());
    placed.push_back({address, buffer.size});
    descriptors.push_back(
        {address.value, buffer.size, buffer.writable ? kDescWrite : std::uint16_t{0}, 0});
  }
  return descriptors;
}

std::uint16_t DriverQueue::add(const std::vector<BufferSpec>& buffers) {
  const std::uint16_t head = next_descriptor_;
  std::vector<Placed> placed;
  auto descriptors = place(buffers, placed);
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const bool last = i + 1 == descriptors.size();
    const std::uint16_t index = next_descriptor_;
    next_descriptor_ = static_cast<std::uint16_t>((next_descriptor_ + 1) % config_.size);
    if (!last) {
      descriptors[i].flags |= kDescNext;
      descriptors[i].next = next_descriptor_;
    }
    set_descriptor(index, descriptors[i]);
  }
  placed_[head] = std::move(placed);
  offer(head);
  return head;
}

std::uint16_t DriverQueue::add_indirect(const std::vector<BufferSpec>& buffers) {
  const std::uint16_t head = next_descriptor_;
  next_descriptor_ = static_cast<std::uint16_t>((next_descriptor_ + 1) % config_.size);
  std::vector<Placed> placed;
  auto descriptors = place(buffers, placed);
  const GuestAddress table = ram_.allocate(16 * descriptors.size());
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    if (i + 1 < descriptors.size()) {
      descriptors[i].flags |= kDescNext;
      descriptors[i].next = static_cast<std::uint16_t>(i + 1);
    }
    std::memcpy(ram_.host(table + 16 * i, 16), &descriptors[i], 16);
  }
  set_descriptor(
      head, {table.value, static_cast<std::uint32_t>(16 * descriptors.size()), kDescIndirect, 0});
  placed_[head] = std::move(placed);
  offer(head);
  return head;
}

void DriverQueue::set_descriptor(std::uint16_t index, const RawDescriptor& descriptor) {
  std::memcpy(ram_.host(config_.descriptors + std::uint64_t{16} * index, 16), &descriptor, 16);
}

void DriverQueue::offer(std::uint16_t head) {
  const std::uint16_t slot = avail_index_ % config_.size;
  std::memcpy(ram_.host(config_.avail + 4 + std::uint64_t{2} * slot, 2), &head, 2);
  set_avail_index(static_cast<std::uint16_t>(avail_index_ + 1));
}

void DriverQueue::set_avail_index(std::uint16_t index) {
  avail_index_ = index;
  auto* at = reinterpret_cast<std::uint16_t*>(ram_.host(config_.avail + 2, 2));
  std::atomic_ref(*at).store(index, std::memory_order_release);
}

GuestAddress DriverQueue::address(std::uint16_t head, std::size_t buffer) const {
  return placed_.at(head).at(buffer).address;
}

std::string DriverQueue::text(std::uint16_t head, std::size_t buffer) const {
  const auto& placed = placed_.at(head).at(buffer);
  return ram_.text(placed.address, placed.size);
}

std::uint16_t DriverQueue::used_index() const {
  auto* at = reinterpret_cast<std::uint16_t*>(ram_.host(config_.used + 2, 2));
  return std::atomic_ref(*at).load(std::memory_order_acquire);
}

bool DriverQueue::wants_kick() const {
  auto* at = reinterpret_cast<std::uint16_t*>(ram_.host(config_.used + 4 + 8 * config_.size, 2));
  return std::atomic_ref(*at).load(std::memory_order_acquire) ==
         static_cast<std::uint16_t>(avail_index_ - 1);
}

std::optional<Used> DriverQueue::poll_used() {
  if (used_index() == seen_used_) return std::nullopt;
  struct {
    std::uint32_t id, written;
  } entry;
  const std::uint64_t slot = seen_used_++ % config_.size;
  std::memcpy(&entry, ram_.host(config_.used + 4 + 8 * slot, 8), 8);
  return Used{static_cast<std::uint16_t>(entry.id), entry.written};
}

std::optional<Used> DriverQueue::wait_used() {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    if (auto used = poll_used()) return used;
    std::this_thread::yield();
  }
  return std::nullopt;
}

virtio::Activation activation_of(const GuestMemory& memory, std::uint64_t features,
                                 const std::vector<DriverQueue*>& queues,
                                 virtio::Interrupts& interrupts) {
  virtio::Activation activation;
  activation.features = features | virtio::kFeatureVersion1;
  activation.interrupts = &interrupts;
  for (auto* queue : queues) {
    if (queue == nullptr) {
      activation.queues.emplace_back();
      continue;
    }
    activation.queues.push_back(virtio::ActiveQueue{
        virtio::Queue::create(memory, queue->config(), activation.features).value(),
        &queue->kick_fd()});
  }
  return activation;
}

}  // namespace vmm::test
