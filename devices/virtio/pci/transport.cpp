#include "devices/virtio/pci/transport.h"

#include <algorithm>
#include <cstring>

#include "src/base/caught.h"

namespace vmm::virtio {
namespace {

// Capability types (4.1.4).
constexpr std::uint8_t kCommonConfig = 1;
constexpr std::uint8_t kNotifyConfig = 2;
constexpr std::uint8_t kIsrConfig = 3;
constexpr std::uint8_t kDeviceConfig = 4;
constexpr std::uint8_t kPciConfig = 5;

// The layout of BAR 0. MSI-X has pages of its own (PCI Local Bus 3.0, 6.8.2).
struct Area {
  std::uint32_t offset;
  std::uint32_t size;
  bool has(std::uint64_t at) const { return at >= offset && at - offset < size; }
};
constexpr Area kCommon{0x0000, 0x38};
constexpr Area kIsr{0x1000, 1};
constexpr Area kDevice{0x2000, 0x1000};
constexpr Area kNotify{0x3000, 0x1000};
constexpr Area kMsixTable{0x4000, 0x2000};
constexpr Area kMsixPending{0x6000, 0x1000};
constexpr std::uint32_t kBarSize = 0x8000;
constexpr std::uint32_t kNotifyMultiplier = 4;
constexpr std::size_t kMaxQueues = kNotify.size / kNotifyMultiplier / 2;

// Registers of the common configuration (4.1.4.3).
enum Common : std::uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigVector = 0x10,
  kNumQueues = 0x12,
  kDeviceStatus = 0x14,
  kConfigGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOff = 0x1e,
  kQueueDescLow = 0x20,
  kQueueDescHigh = 0x24,
  kQueueDriverLow = 0x28,
  kQueueDriverHigh = 0x2c,
  kQueueDeviceLow = 0x30,
  kQueueDeviceHigh = 0x34,
};

// Device status (2.1).
constexpr std::uint8_t kDriverOk = 4;
constexpr std::uint8_t kFeaturesOk = 8;
constexpr std::uint8_t kNeedsReset = 64;

constexpr std::uint16_t kNoVector = 0xffff;
constexpr std::uint8_t kIsrQueue = 1;
constexpr std::uint8_t kIsrConfigChange = 2;

// Offsets within VIRTIO_PCI_CAP_PCI_CFG, from the start of the capability (4.1.4.9).
constexpr unsigned kWindowBar = 4;
constexpr unsigned kWindowOffset = 8;
constexpr unsigned kWindowLength = 12;
constexpr unsigned kWindowData = 16;

// The driver has said all that it has to say: features and queues are fixed until a reset, whether
// the device could be activated or not.
bool is_ready(std::uint8_t status) {
  return (status & kDriverOk) != 0 && (status & kFeaturesOk) != 0;
}

pci::Identity identity_of(DeviceType type) {
  const auto id = static_cast<std::uint16_t>(type);
  std::uint32_t class_code = 0xff0000;  // no class fits
  if (type == DeviceType::net) class_code = 0x020000;
  if (type == DeviceType::block) class_code = 0x018000;
  return {0x1af4, static_cast<std::uint16_t>(0x1040 + id), 0x1af4, id, 1, class_code};
}

// Through the window of VIRTIO_PCI_CAP_PCI_CFG the guest names offsets that no bus has seen; the
// driver must align them (4.1.4.9.2).
bool is_in_bar(std::uint32_t offset, unsigned size) {
  return offset <= kBarSize - size && offset % size == 0;
}

std::uint64_t high_half(std::uint64_t old, std::uint64_t value) {
  return (old & 0xffff'ffff) | value << 32;
}
std::uint64_t low_half(std::uint64_t old, std::uint64_t value) {
  return (old & ~std::uint64_t{0xffff'ffff}) | (value & 0xffff'ffff);
}

}  // namespace

Result<std::unique_ptr<PciTransport>> PciTransport::create(std::string name, Device& device,
                                                           const GuestMemory& memory, MsiSink& sink,
                                                           DoorbellRegistry& doorbells) {
  const auto sizes = device.queue_sizes();
  if (sizes.size() > kMaxQueues) return fail("{}: {} queues are too many", name, sizes.size());
  std::vector<QueueRegisters> queues;
  for (const auto size : sizes) {
    queues.push_back({.max_size = size, .config = {.size = size}, .kick = TRY(EventFd::create())});
  }
  return std::unique_ptr<PciTransport>(
      new PciTransport(std::move(name), device, memory, sink, doorbells, std::move(queues)));
}

PciTransport::PciTransport(std::string name, Device& device, const GuestMemory& memory,
                           MsiSink& sink, DoorbellRegistry& doorbells,
                           std::vector<QueueRegisters> queues)
    : Function(identity_of(device.type()), kBarSize),
      name_(std::move(name)),
      device_(device),
      memory_(memory),
      doorbells_(doorbells),
      msix_(sink, static_cast<std::uint16_t>(queues.size() + 1)),  // one more: configuration
      vectors_(queues.size()),
      queues_(std::move(queues)) {
  for (auto& vector : vectors_) vector = kNoVector;
  add_virtio_capabilities();
}

PciTransport::~PciTransport() { stop(); }

void PciTransport::add_virtio_capabilities() {
  const auto add = [this](std::uint8_t type, const Area& area, std::uint32_t extra_words,
                          std::uint32_t extra) {
    // cfg_type, bar, padding, offset, length (struct virtio_pci_cap behind its two first bytes)
    std::vector<std::uint8_t> body(14 + 4 * extra_words);
    body[0] = static_cast<std::uint8_t>(body.size() + 2);
    body[1] = type;
    std::memcpy(&body[6], &area.offset, 4);
    std::memcpy(&body[10], &area.size, 4);
    if (extra_words != 0) std::memcpy(&body[14], &extra, 4);
    std::vector<std::uint8_t> writable(body.size());
    if (type == kPciConfig) std::fill(writable.begin() + 2, writable.end(), std::uint8_t{0xff});
    return add_capability(pci::kCapabilityVendor, body, writable);
  };
  add(kCommonConfig, kCommon, 0, 0);
  add(kIsrConfig, kIsr, 0, 0);
  add(kDeviceConfig, kDevice, 0, 0);
  add(kNotifyConfig, kNotify, 1, kNotifyMultiplier);
  window_capability_ = add(kPciConfig, Area{0, 0}, 1, 0);

  // Message control, table and pending bits in BAR 0 (PCI Local Bus 3.0, 6.8.2).
  std::vector<std::uint8_t> msix(10);
  const auto last = static_cast<std::uint16_t>(msix_.vectors() - 1);
  std::memcpy(&msix[0], &last, 2);
  std::memcpy(&msix[2], &kMsixTable.offset, 4);
  std::memcpy(&msix[6], &kMsixPending.offset, 4);
  const std::uint8_t writable[] = {0, 0xc0};
  msix_capability_ = add_capability(pci::kCapabilityMsix, msix, writable);
}

void PciTransport::capability_written(unsigned offset, unsigned size, std::uint32_t value) {
  if (offset <= msix_capability_ + 3 && offset + size > msix_capability_ + 2) {
    msix_.set_control(static_cast<std::uint16_t>(read_config(msix_capability_ + 2, 2)));
  }
  if (offset == window_capability_ + kWindowData) {
    const std::uint32_t at = read_config(window_capability_ + kWindowOffset, 4);
    const std::uint32_t length = read_config(window_capability_ + kWindowLength, 4);
    if (read_config(window_capability_ + kWindowBar, 1) == 0 && length <= 4 && length == size &&
        is_in_bar(at, size)) {
      write_bar(at, size, value);
    }
  }
}

std::optional<std::uint32_t> PciTransport::capability_read(unsigned offset, unsigned size) {
  if (window_capability_ == 0 || offset != window_capability_ + kWindowData) return std::nullopt;
  const std::uint32_t at = read_config(window_capability_ + kWindowOffset, 4);
  const std::uint32_t length = read_config(window_capability_ + kWindowLength, 4);
  if (length != size || !is_in_bar(at, size)) return std::nullopt;
  return static_cast<std::uint32_t>(read_bar(at, size));
}

std::uint64_t PciTransport::read_bar(std::uint64_t offset, unsigned size) {
  if (kCommon.has(offset)) {
    std::lock_guard lock(mutex_);
    return read_common(offset, size);
  }
  if (kIsr.has(offset)) return isr_.exchange(0);
  if (kDevice.has(offset)) {
    std::uint64_t value = 0;
    std::lock_guard lock(mutex_);
    device_.read_config(offset - kDevice.offset,
                        std::as_writable_bytes(std::span(&value, 1)).first(size));
    return value;
  }
  if (kMsixTable.has(offset)) return msix_.read_table(offset - kMsixTable.offset, size);
  if (kMsixPending.has(offset)) return msix_.read_pending(offset - kMsixPending.offset, size);
  return 0;
}

void PciTransport::write_bar(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (kCommon.has(offset)) {
    std::lock_guard lock(mutex_);
    write_common(offset, size, value);
  } else if (kNotify.has(offset)) {
    // Reached when there is no ioeventfd (it could not be attached, or the device is not active).
    const std::uint64_t queue = (offset - kNotify.offset) / kNotifyMultiplier;
    std::lock_guard lock(mutex_);
    if (active_ && queue < queues_.size()) queues_[queue].kick.signal();
  } else if (kDevice.has(offset)) {
    std::lock_guard lock(mutex_);
    device_.write_config(offset - kDevice.offset, std::as_bytes(std::span(&value, 1)).first(size));
  } else if (kMsixTable.has(offset)) {
    msix_.write_table(offset - kMsixTable.offset, size, value);
  }
}

std::uint64_t PciTransport::offered_features() const {
  return device_.features() | kFeatureVersion1;
}

bool PciTransport::acceptable(std::uint64_t features) const {
  return (features & ~offered_features()) == 0 && (features & kFeatureVersion1) != 0;
}

PciTransport::QueueRegisters* PciTransport::selected() {
  return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

std::uint64_t PciTransport::read_common(std::uint64_t offset, unsigned /*size*/) {
  const auto half = [](std::uint64_t value, std::uint32_t select) -> std::uint64_t {
    return select < 2 ? (value >> (32 * select)) & 0xffff'ffff : 0;
  };
  const QueueRegisters* found = selected();
  const QueueConfig config = found != nullptr ? found->config : QueueConfig{};
  switch (offset) {
    case kDeviceFeatureSelect:
      return device_feature_select_;
    case kDeviceFeature:
      return half(offered_features(), device_feature_select_);
    case kDriverFeatureSelect:
      return driver_feature_select_;
    case kDriverFeature:
      return half(driver_features_, driver_feature_select_);
    case kConfigVector:
      return config_vector_;
    case kNumQueues:
      return queues_.size();
    case kDeviceStatus:
      return status_;
    case kConfigGeneration:
      return generation_;
    case kQueueSelect:
      return queue_select_;
    case kQueueSize:
      return config.size;
    case kQueueVector:
      return found != nullptr ? found->vector : kNoVector;
    case kQueueEnable:
      return found != nullptr && found->enabled ? 1 : 0;
    case kQueueNotifyOff:
      return found != nullptr ? queue_select_ : 0;
    case kQueueDescLow:
      return config.descriptors.value & 0xffff'ffff;
    case kQueueDescHigh:
      return config.descriptors.value >> 32;
    case kQueueDriverLow:
      return config.avail.value & 0xffff'ffff;
    case kQueueDriverHigh:
      return config.avail.value >> 32;
    case kQueueDeviceLow:
      return config.used.value & 0xffff'ffff;
    case kQueueDeviceHigh:
      return config.used.value >> 32;
    default:
      return 0;
  }
}

void PciTransport::write_common(std::uint64_t offset, unsigned size, std::uint64_t value) {
  switch (offset) {
    case kDeviceFeatureSelect:
      device_feature_select_ = static_cast<std::uint32_t>(value);
      break;
    case kDriverFeatureSelect:
      driver_feature_select_ = static_cast<std::uint32_t>(value);
      break;
    case kDriverFeature:
      // After FEATURES_OK the negotiation is over (3.1.1).
      if ((status_ & kFeaturesOk) != 0 || driver_feature_select_ > 1) break;
      driver_features_ = driver_feature_select_ == 0 ? low_half(driver_features_, value)
                                                     : high_half(driver_features_, value);
      break;
    case kConfigVector:
      // A vector that does not exist reads back as NO_VECTOR (4.1.5.1.2.1).
      config_vector_ = value < msix_.vectors() ? static_cast<std::uint16_t>(value) : kNoVector;
      break;
    case kDeviceStatus:
      write_status(static_cast<std::uint8_t>(value));
      break;
    case kQueueSelect:
      queue_select_ = static_cast<std::uint16_t>(value);
      break;
    default:
      write_queue(offset, size, value);
  }
}

void PciTransport::write_queue(std::uint64_t offset, unsigned size, std::uint64_t value) {
  QueueRegisters* queue = selected();
  if (queue == nullptr) return;
  if (offset == kQueueVector) {
    queue->vector = value < msix_.vectors() ? static_cast<std::uint16_t>(value) : kNoVector;
    vectors_[queue_select_] = queue->vector;
    return;
  }
  // The rest is fixed once the queue is enabled, and of all queues once the device has seen them.
  if (queue->enabled || is_ready(status_)) return;
  const auto set_half = [&](GuestAddress& address, bool high) {
    address.value = size == 8 && !high ? value
                    : high             ? high_half(address.value, value)
                                       : low_half(address.value, value);
  };
  switch (offset) {
    case kQueueSize:
      if (value <= queue->max_size) queue->config.size = static_cast<std::uint16_t>(value);
      break;
    case kQueueEnable:
      queue->enabled = value == 1 && queue->config.size != 0;
      break;
    case kQueueDescLow:
    case kQueueDescHigh:
      set_half(queue->config.descriptors, offset == kQueueDescHigh);
      break;
    case kQueueDriverLow:
    case kQueueDriverHigh:
      set_half(queue->config.avail, offset == kQueueDriverHigh);
      break;
    case kQueueDeviceLow:
    case kQueueDeviceHigh:
      set_half(queue->config.used, offset == kQueueDeviceHigh);
      break;
    default:
      break;
  }
}

void PciTransport::write_status(std::uint8_t value) {
  if (value == 0) {
    reset();
    return;
  }
  std::uint8_t before = status_;
  std::uint8_t after = 0;
  do {
    // Only a reset takes bits away (2.1.1): what was negotiated and activated stays so until then.
    // NEEDS_RESET is the device's: a device thread may set it meanwhile.
    after = static_cast<std::uint8_t>((value & ~kNeedsReset) | before);
    if ((after & ~before & kFeaturesOk) != 0 && !acceptable(driver_features_)) {
      after = static_cast<std::uint8_t>(after & ~kFeaturesOk);  // refused: the driver reads it back
    }
  } while (!status_.compare_exchange_weak(before, after));
  if (is_ready(after) && !is_ready(before)) activate();
}

void PciTransport::activate() {
  Activation activation;
  activation.features = driver_features_;
  activation.interrupts = this;
  for (auto& queue : queues_) {
    if (!queue.enabled) {
      activation.queues.emplace_back();
      continue;
    }
    auto created = Queue::create(memory_, queue.config, driver_features_);
    if (!created) {
      needs_reset(created.error().message());
      return;
    }
    (void)queue.kick.consume();  // from before the last reset
    activation.queues.push_back(ActiveQueue{std::move(*created), &queue.kick});
  }
  (void)start(std::move(activation));
}

// Until a reset it is tried once: its queues went with it.
Result<void> PciTransport::start(Activation activation) {
  if (const auto result = device_.activate(std::move(activation)); !result) {
    msix_.release_routes();
    log::warn_limited(limit_, "{}: the device cannot start, and needs a reset: {}", name_,
                      result.error().message());
    set_needs_reset();
    return result;
  }
  active_ = true;
  attach_doorbells();
  // A driver may have kicked before DRIVER_OK, or the pause, took effect: look once.
  for (auto& queue : queues_) {
    if (queue.enabled) queue.kick.signal();
  }
  return {};
}

void PciTransport::deactivate() {
  if (!active_) return;
  detach_doorbells();
  (void)device_.deactivate();  // a reset forgets the positions of the rings
  msix_.release_routes();
  active_ = false;
}

void PciTransport::suspend() {
  std::lock_guard lock(mutex_);
  suspend_active();
}

Result<void> PciTransport::resume() {
  std::lock_guard lock(mutex_);
  return resume_suspended();
}

Result<void> PciTransport::change(SlotChange& change, const std::function<void()>& suspended) {
  std::lock_guard lock(mutex_);
  if ((status_ & kFeaturesOk) != 0) TRY(change.check(driver_features_));
  const bool was_active = active_;  // else somebody else suspended it, or the driver is not there
  suspend_active();
  const auto made = caught([&] {
    suspended();
    return change.make();
  });
  const auto resumed = was_active ? resume_suspended() : Result<void>();
  if (!made || resumed) return made;
  return fail("{} is changed, but does not go on until its driver resets it: {}", name_,
              resumed.error().message());
}

void PciTransport::suspend_active() {
  if (!active_) return;
  detach_doorbells();
  suspended_ = device_.suspend();
  msix_.release_routes();
  active_ = false;
}

Result<void> PciTransport::resume_suspended() {
  if (!suspended_) return {};
  Activation activation;
  activation.features = driver_features_;
  activation.interrupts = this;
  activation.resumed = true;
  auto queues = *std::exchange(suspended_, std::nullopt);
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    activation.queues.emplace_back();
    if (i < queues.size() && queues[i]) {
      activation.queues[i] = ActiveQueue{std::move(*queues[i]), &queues_[i].kick};
    }
  }
  return start(std::move(activation));
}

TransportState PciTransport::save() {
  std::lock_guard lock(mutex_);
  TransportState state{.function = save_config(),
                       .msix = msix_.save(),
                       .status = status_,
                       .isr = isr_,
                       .generation = generation_,
                       .config_vector = config_vector_,
                       .device_feature_select = device_feature_select_,
                       .driver_feature_select = driver_feature_select_,
                       .driver_features = driver_features_,
                       .queue_select = queue_select_,
                       .active = suspended_.has_value()};
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& queue = queues_[i];
    QueueState saved{.size = queue.config.size,
                     .descriptors = queue.config.descriptors.value,
                     .avail = queue.config.avail.value,
                     .used = queue.config.used.value,
                     .vector = queue.vector,
                     .enabled = queue.enabled};
    if (suspended_ && i < suspended_->size() && (*suspended_)[i]) {
      saved.next_avail = (*suspended_)[i]->next_avail();
      saved.next_used = (*suspended_)[i]->next_used();
    }
    state.queues.push_back(saved);
  }
  return state;
}

Result<void> PciTransport::restore(const TransportState& state) {
  std::lock_guard lock(mutex_);
  if (state.queues.size() != queues_.size()) {
    return fail("it had {} queues, here it has {}", state.queues.size(), queues_.size());
  }
  // Before FEATURES_OK they are what the driver wrote, whatever that is.
  const auto missing = state.driver_features & ~offered_features();
  if (missing != 0 && (state.status & kFeaturesOk) != 0) {
    return fail("its driver uses the feature bits {:#x}, which it does not have here{}", missing,
                device_.feature_advice());
  }
  TRY(restore_config(state.function));
  TRY(msix_.restore(state.msix));
  const auto vector = [this](std::uint16_t v) { return v < msix_.vectors() ? v : kNoVector; };
  // Earlier versions let a driver change features and queues of an active device. What such a
  // device was activated with is not in its state: it needs a reset.
  bool known = acceptable(state.driver_features);
  std::vector<std::optional<Queue>> rings;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& from = state.queues[i];
    auto& queue = queues_[i];
    if (from.size > queue.max_size) {
      return fail("queue {} had {} entries, here it has at most {}", i, from.size, queue.max_size);
    }
    queue.config = {from.size, GuestAddress{from.descriptors}, GuestAddress{from.avail},
                    GuestAddress{from.used}};
    queue.vector = vector(from.vector);
    vectors_[i] = queue.vector;
    queue.enabled = from.enabled;
    auto& ring = rings.emplace_back();
    if (!state.active || !from.enabled) continue;
    if (auto created = Queue::create(memory_, queue.config, state.driver_features)) {
      ring = std::move(*created);
      ring->set_position(from.next_avail, from.next_used);
    } else {
      known = false;
    }
  }
  status_ = state.status;
  if (state.active) status_.fetch_or(known ? kDriverOk | kFeaturesOk : kNeedsReset);
  isr_ = state.isr;
  generation_ = state.generation;
  config_vector_ = vector(state.config_vector);
  device_feature_select_ = state.device_feature_select;
  driver_feature_select_ = state.driver_feature_select;
  driver_features_ = state.driver_features;
  queue_select_ = state.queue_select;
  if (state.active && known) suspended_ = std::move(rings);
  return {};
}

void PciTransport::reset() {
  deactivate();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    auto& queue = queues_[i];
    queue.config = {.size = queue.max_size};
    queue.vector = kNoVector;
    vectors_[i] = kNoVector;
    queue.enabled = false;
  }
  config_vector_ = kNoVector;
  device_feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  queue_select_ = 0;
  isr_ = 0;
  status_ = 0;
}

void PciTransport::stop() {
  std::lock_guard lock(mutex_);
  deactivate();
}

void PciTransport::attach_doorbells() {
  // Over another's BAR a kick would reach the wrong device. write_bar() rings without a doorbell.
  const auto bar = own_bar_address();
  if (!bar) return;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    auto& queue = queues_[i];
    if (!queue.enabled) continue;
    queue.doorbell = *bar + kNotify.offset + i * kNotifyMultiplier;
    const auto result = doorbells_.attach(queue.doorbell, queue.kick);
    queue.attached = result.has_value();
    if (!result) {
      log::warn_limited(limit_, "{}: doorbell: {}", name_, result.error().message());
    }
  }
}

void PciTransport::detach_doorbells() {
  for (auto& queue : queues_) {
    if (!queue.attached) continue;
    doorbells_.detach(queue.doorbell, queue.kick);
    queue.attached = false;
  }
}

void PciTransport::bar_moved() {
  std::lock_guard lock(mutex_);
  if (!active_) return;
  detach_doorbells();
  attach_doorbells();
}

void PciTransport::queue_used(std::uint16_t queue) {
  isr_.fetch_or(kIsrQueue, std::memory_order_relaxed);
  msix_.signal(vectors_[queue].load(std::memory_order_relaxed));
}

void PciTransport::config_changed() {
  ++generation_;
  isr_.fetch_or(kIsrConfigChange, std::memory_order_relaxed);
  msix_.signal(config_vector_);
}

void PciTransport::needs_reset(std::string_view reason) {
  log::warn_limited(limit_, "{}: the guest broke the rules, the device needs a reset: {}", name_,
                    reason);
  set_needs_reset();
}

void PciTransport::set_needs_reset() {
  status_.fetch_or(kNeedsReset);
  config_changed();
}

Result<int> PciTransport::queue_event_fd(std::uint16_t queue) {
  return msix_.route(vectors_[queue].load(std::memory_order_relaxed));
}

}  // namespace vmm::virtio
