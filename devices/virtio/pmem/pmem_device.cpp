#include "devices/virtio/pmem/pmem_device.h"

#include <bit>
#include <cstring>

#include "devices/virtio/pmem/state.h"

namespace vmm::virtio {
namespace {

// struct virtio_pmem_config (5.19.4).
struct Config {
  std::uint64_t start;
  std::uint64_t size;
};
static_assert(std::endian::native == std::endian::little);

// 5.19.6.
constexpr std::uint32_t kFlush = 0;
constexpr std::uint32_t kDone = 0;
constexpr std::uint32_t kFailed = ~std::uint32_t{0};

}  // namespace

Result<std::unique_ptr<PmemDevice>> PmemDevice::create(const PmemConfig& config,
                                                       const std::string& name, GuestMemory& memory,
                                                       EventLoop& loop) {
  auto opened = TRY(PmemFiles::open(config));
  std::unique_ptr<PmemDevice> device(new PmemDevice(loop, std::move(opened)));
  const auto& files = device->files_;
  const auto wanted = config.slot_size != 0 ? config.slot_size : files.size();
  const auto size = (wanted + kPmemAlignment - 1) / kPmemAlignment * kPmemAlignment;
  const auto start = memory.add_window(size, files.parts());
  if (!start) return fail("{}: {}", name, start.error().message());
  device->range_ = {*start, size};
  device->path_ = config.path;
  device->is_slot_ = config.slot_size != 0;
  device->versions_ = TRY(files.versions());
  return device;
}

void PmemDevice::read_config(std::uint64_t offset, std::span<std::byte> target) const {
  const Config config{range_.base.value, range_.size};
  read_config_bytes(std::as_bytes(std::span(&config, 1)), offset, target);
}

// There is nothing to flush: the guest cannot write.
Handled PmemDevice::serve(const Chain& chain) {
  const auto request = read_struct<std::uint32_t>(chain.readable());
  requests_.fetch_add(1, std::memory_order_relaxed);
  const std::uint32_t answer = request == kFlush ? kDone : kFailed;
  return Handled::used(copy_to_buffers(chain.writable(), 0, std::as_bytes(std::span(&answer, 1))),
                       1);
}

void PmemDevice::save(state::Sections& sections, std::string_view name) const {
  PmemState state{.start = range_.base.value, .size = range_.size, .sizes = {}, .modified = {}};
  for (const auto& version : versions_) {
    state.sizes.push_back(version.size);
    state.modified.push_back(version.modified);
  }
  sections.put(name, state);
}

Result<void> PmemDevice::restore(state::Sections& sections, std::string_view name) {
  const auto state = TRY(sections.take<PmemState>(name));
  if (state.size != range_.size) {
    return fail("it has {} bytes, '{}' makes it {}", state.size, path_, range_.size);
  }
  if (state.start != range_.base.value) {
    return fail("the guest has it at {:#x}, and here it is at {:#x}", state.start,
                range_.base.value);
  }
  // As with disks: who fills a slot says what is in it, whatever was there.
  if (is_slot_) return {};
  bool is_same =
      state.sizes.size() == versions_.size() && state.modified.size() == versions_.size();
  for (std::size_t i = 0; is_same && i < versions_.size(); ++i) {
    is_same = versions_[i] == PmemFiles::Version{state.sizes[i], state.modified[i]};
  }
  if (is_same) return {};
  return fail("'{}' is not what the guest has read, or was changed since", path_);
}

NamedValues PmemDevice::metrics() {
  return {{"requests", requests_.load(std::memory_order_relaxed)}};
}

NamedValues PmemDevice::status() const { return {{"path", path_}, {"size", range_.size}}; }

}  // namespace vmm::virtio
