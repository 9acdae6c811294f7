#include "devices/virtio/balloon/balloon_device.h"

#include <algorithm>
#include <cstring>
#include <future>

#include "devices/virtio/balloon/state.h"
#include "src/base/text.h"

namespace vmm::virtio {
namespace {

constexpr std::size_t kStatisticsQueue = 2;
constexpr std::size_t kQueues = 5;

// What one call of serve() does before the loop sees to its other tasks.
constexpr std::size_t kPagesPerTurn = BalloonDevice::kMaxPages;
// What a chain costs beside its pages.
constexpr std::size_t kChainCost = 64;

constexpr auto kPatience = std::chrono::seconds(3);
// How long metrics() waits for the guest.
constexpr auto kMetricsPatience = std::chrono::milliseconds(200);

// Configuration space (5.5.4), without the fields of features that are not offered.
struct [[gnu::packed]] Config {
  std::uint32_t num_pages = 0;
  std::uint32_t actual = 0;
};
static_assert(sizeof(Config) == 8);

struct [[gnu::packed]] StatisticEntry {
  std::uint16_t tag = 0;
  std::uint64_t value = 0;
};
static_assert(sizeof(StatisticEntry) == 10);
constexpr std::size_t kMaxEntries = 64;

BalloonStatistics parse_statistics(std::span<const iovec> buffers) {
  BalloonStatistics statistics;
  for (std::size_t i = 0; i < kMaxEntries; ++i) {
    const auto entry = read_struct<StatisticEntry>(buffers, i * sizeof(StatisticEntry));
    if (!entry) break;
    const std::uint64_t value = entry->value;  // packed: no reference may be bound to it
    if (entry->tag < statistics.values.size()) statistics.values[entry->tag] = value;
  }
  return statistics;
}

}  // namespace

BalloonDevice::BalloonDevice(const GuestMemory& memory, EventLoop& loop)
    : memory_(memory), loop_(loop), self_(std::make_shared<BalloonDevice*>(this)) {}

BalloonDevice::~BalloonDevice() {
  loop_.call([this] { self_.reset(); });
  (void)deactivate();
}

std::uint64_t BalloonDevice::features() const {
  return kFeatureStatistics | kFeatureDeflateOnOom | kFeatureReporting | kFeatureEventIdx |
         kFeatureIndirectDescriptors;
}

// Inflation, deflation, statistics, and two candidates for reporting, see activate(). Linux reports
// 32 ranges at a time and wants them to fit.
std::vector<std::uint16_t> BalloonDevice::queue_sizes() const { return {128, 128, 16, 64, 64}; }

void BalloonDevice::read_config(std::uint64_t offset, std::span<std::byte> target) const {
  const Config config{target_pages_.load(std::memory_order_relaxed),
                      actual_pages_.load(std::memory_order_relaxed)};
  read_config_bytes(std::as_bytes(std::span(&config, 1)), offset, target);
}

void BalloonDevice::write_config(std::uint64_t offset, std::span<const std::byte> source) {
  if (offset >= sizeof(Config)) return;
  Config config{0, actual_pages_.load(std::memory_order_relaxed)};
  const auto size = std::min<std::size_t>(source.size(), sizeof(Config) - offset);
  if (size > 0) std::memcpy(reinterpret_cast<std::byte*>(&config) + offset, source.data(), size);
  actual_pages_.store(config.actual, std::memory_order_relaxed);
}

Result<void> BalloonDevice::activate(Activation activation) {
  if (activation.queues.size() != kQueues) {
    return fail("a balloon has {} queues, not {}", kQueues, activation.queues.size());
  }
  Result<void> result;
  loop_.call([&] {
    std::vector<Slot> slots(kQueues);
    for (std::size_t i = 0; i < kQueues; ++i) {
      const auto role = slots[i].role = role_of(i, activation);
      auto& active = activation.queues[i];
      if (!active) continue;
      if (role == Role::unused) {
        slots[i].idle = std::move(active->queue);
        continue;
      }
      slots[i].served = std::make_unique<ServedQueue>(
          loop_, static_cast<std::uint16_t>(i), std::move(*active), *activation.interrupts,
          kPagesPerTurn, [this, role](Chain& chain) { return handle(role, chain); },
          [this](std::string_view reason) { break_device(reason); });
      result = slots[i].served->watch();
      if (!result) return;
    }
    queues_ = std::move(slots);
    interrupts_ = activation.interrupts;
    broken_ = false;
    active_ = true;
    for (auto& slot : queues_) {
      if (slot.served) slot.served->serve();  // what waited for a restore or a start
    }
  });
  return result;
}

// The specification numbers queues as though all features were there (reporting is 4), Linux leaves
// no gaps (3, as page hinting is not offered): reporting has the last one that the driver enabled.
BalloonDevice::Role BalloonDevice::role_of(std::size_t index, const Activation& activation) const {
  const bool statistics = (activation.features & kFeatureStatistics) != 0;
  const std::size_t free = kStatisticsQueue + (statistics ? 1 : 0);
  if (index == 0) return Role::inflate;
  if (index == 1) return Role::deflate;
  if (index < free) return Role::statistics;
  if ((activation.features & kFeatureReporting) == 0 || !activation.queues[index]) {
    return Role::unused;
  }
  for (std::size_t i = index + 1; i < kQueues; ++i) {
    if (activation.queues[i]) return Role::unused;
  }
  return Role::reporting;
}

std::vector<std::optional<Queue>> BalloonDevice::deactivate() {
  std::vector<std::optional<Queue>> returned;
  loop_.call([&] {
    if (!active_) return;
    // Back into its ring, so that whoever continues finds it there.
    if (statistics_chain_) {
      queues_[kStatisticsQueue].served->queue().unpop(std::move(*statistics_chain_));
      statistics_chain_.reset();
    }
    for (auto& slot : queues_) {
      returned.push_back(slot.served ? slot.served->stop() : std::move(slot.idle));
    }
    queues_.clear();
    interrupts_ = nullptr;
    active_ = false;
    answer_waiters(fail("the guest's balloon driver stopped"));
  });
  return returned;
}

void BalloonDevice::break_device(std::string_view reason) {
  broken_ = true;
  for (auto& slot : queues_) {
    if (slot.served) slot.served->give_up();
  }
  interrupts_->needs_reset(reason);
}

// Costs are pages: what a turn is measured in.
Handled BalloonDevice::handle(Role role, Chain& chain) {
  switch (role) {
    case Role::inflate:
      return inflate(chain);
    case Role::reporting:
      return report(chain);
    case Role::statistics:
      return keep_statistics(chain);
    case Role::deflate:  // the pages come back when the guest touches them
    case Role::unused:
      break;
  }
  return Handled::used(0, kChainCost);
}

Handled BalloonDevice::inflate(const Chain& chain) {
  const std::uint64_t count = chain.readable_size() / sizeof(std::uint32_t);
  if (count > kMaxPages) return Handled::refused("more pages in one request than a balloon takes");
  std::vector<std::uint32_t> pages(count);
  (void)copy_from_buffers(chain.readable(), 0, std::as_writable_bytes(std::span(pages)));
  // Neighbours together: one call for a range, and huge pages of the host go whole.
  std::sort(pages.begin(), pages.end());
  std::uint64_t given = 0;
  for (std::size_t i = 0; i < pages.size();) {
    const std::uint64_t first = pages[i];
    std::uint64_t end = first + 1;
    for (++i; i < pages.size() && pages[i] <= end; ++i) end = std::uint64_t{pages[i]} + 1;
    given += give_back(GuestAddress{first * kPageSize}, (end - first) * kPageSize);
  }
  inflated_bytes_.fetch_add(given, std::memory_order_relaxed);
  return Handled::used(0, count + kChainCost);
}

Handled BalloonDevice::report(const Chain& chain) {
  std::uint64_t given = 0;
  for (const auto& buffer : chain.writable()) {
    const auto at = reinterpret_cast<std::uintptr_t>(buffer.iov_base);
    for (const auto& region : memory_.regions()) {
      const auto start = reinterpret_cast<std::uintptr_t>(region.host);
      if (at < start || at - start >= region.range.size) continue;
      given += give_back(region.range.base + (at - start), buffer.iov_len);
    }
  }
  reported_bytes_.fetch_add(given, std::memory_order_relaxed);
  return Handled::used(0, chain.writable().size() + kChainCost);
}

// The part of [address, address + length) that is RAM; returns its size.
std::uint64_t BalloonDevice::give_back(GuestAddress address, std::uint64_t length) {
  std::uint64_t given = 0;
  const std::uint64_t end = address.value + length;  // far from overflow: 44 bits, or RAM
  for (const auto& region : memory_.regions()) {
    const std::uint64_t first = std::max(address.value, region.range.base.value);
    const std::uint64_t last = std::min(end, region.range.base.value + region.range.size);
    if (first >= last) continue;
    if (const auto done = memory_.discard(GuestAddress{first}, last - first); !done) {
      log::warn_limited(log_limit_, "balloon: {}", done.error().message());
      continue;
    }
    given += last - first;
  }
  return given;
}

Handled BalloonDevice::keep_statistics(Chain& chain) {
  const auto statistics = parse_statistics(chain.readable());
  // A driver keeps one buffer here; of one that gives more, the latest counts.
  if (statistics_chain_) {
    queues_[kStatisticsQueue].served->queue().push(std::move(*statistics_chain_), 0);
  }
  statistics_chain_.emplace(std::move(chain));
  {
    std::lock_guard lock(statistics_mutex_);
    last_statistics_ = statistics;
  }
  answer_waiters(statistics);
  return Handled::kept(kChainCost);
}

Result<void> BalloonDevice::set_target(std::uint64_t bytes) {
  if (bytes > memory_.size()) {
    return fail("a balloon of {} in a machine with {} of memory", format_size(bytes),
                format_size(memory_.size()));
  }
  target_pages_.store(static_cast<std::uint32_t>(bytes / kPageSize), std::memory_order_relaxed);
  loop_.post([weak = std::weak_ptr(self_)] {
    const auto self = weak.lock();
    if (self && (*self)->active_) (*self)->interrupts_->config_changed();
  });
  return {};
}

BalloonAmounts BalloonDevice::amounts() const {
  constexpr auto relaxed = std::memory_order_relaxed;
  return {std::uint64_t{target_pages_.load(relaxed)} * kPageSize,
          std::uint64_t{actual_pages_.load(relaxed)} * kPageSize, inflated_bytes_.load(relaxed),
          reported_bytes_.load(relaxed)};
}

std::optional<BalloonStatistics> BalloonDevice::last_statistics() const {
  std::lock_guard lock(statistics_mutex_);
  return last_statistics_;
}

void BalloonDevice::request_statistics(StatisticsCallback callback) {
  loop_.post([weak = std::weak_ptr(self_), callback = std::move(callback)]() mutable {
    if (const auto self = weak.lock()) {
      (*self)->ask_statistics(std::move(callback));
    } else {
      callback(fail("the balloon is gone"));
    }
  });
}

void BalloonDevice::ask_statistics(StatisticsCallback callback) {
  const bool served = active_ && !broken_ && queues_[kStatisticsQueue].served &&
                      queues_[kStatisticsQueue].role == Role::statistics;
  if (!served) {
    callback(fail("the guest has no balloon driver that tells statistics"));
    return;
  }
  const std::uint64_t id = next_waiter_++;
  const auto timer = loop_.add_timer(EventLoop::Clock::now() + kPatience, [this, id] {
    const auto it = std::find_if(waiters_.begin(), waiters_.end(),
                                 [id](const Waiter& waiter) { return waiter.id == id; });
    if (it == waiters_.end()) return;
    const auto late = std::move(it->callback);
    waiters_.erase(it);
    late(fail("the guest's balloon driver did not answer within {} s", kPatience.count()));
  });
  waiters_.push_back({id, timer, std::move(callback)});
  // Giving the buffer back is the question; the driver fills it and offers it again (5.5.6.4).
  if (!statistics_chain_) return;
  auto& served_queue = *queues_[kStatisticsQueue].served;
  served_queue.queue().push(std::move(*statistics_chain_), 0);
  statistics_chain_.reset();
  served_queue.notify();
}

void BalloonDevice::answer_waiters(const Result<BalloonStatistics>& answer) {
  // A callback may ask again.
  const auto waiters = std::exchange(waiters_, {});
  for (const auto& waiter : waiters) {
    loop_.cancel_timer(waiter.timer);
    waiter.callback(answer);
  }
}

NamedValues BalloonDevice::metrics() {
  const auto answered = std::make_shared<std::promise<void>>();
  request_statistics([answered](const auto&) { answered->set_value(); });
  (void)answered->get_future().wait_for(kMetricsPatience);
  NamedValues guest;
  if (const auto statistics = last_statistics()) {
    for (std::size_t i = 0; i < kBalloonStatisticNames.size(); ++i) {
      if (const auto value = statistics->values[i]) {
        guest.push_back({std::string(kBalloonStatisticNames[i]), *value});
      }
    }
  }
  const auto a = amounts();
  return {{"target_bytes", a.target_bytes},
          {"actual_bytes", a.actual_bytes},
          {"inflated_bytes", a.inflated_bytes},
          {"reported_bytes", a.reported_bytes},
          {"guest", std::move(guest)}};
}

void BalloonDevice::save(state::Sections& sections, std::string_view name) const {
  sections.put(name, BalloonState{target_pages_, actual_pages_});
}

Result<void> BalloonDevice::restore(state::Sections& sections, std::string_view name) {
  const auto state = TRY(sections.take<BalloonState>(name));
  const std::uint64_t most = memory_.size() / kPageSize;
  if (state.target_pages > most) {
    return fail("the balloon's target is {} pages, the machine has {}", state.target_pages, most);
  }
  target_pages_ = state.target_pages;
  actual_pages_ = state.actual_pages;
  return {};
}

}  // namespace vmm::virtio
