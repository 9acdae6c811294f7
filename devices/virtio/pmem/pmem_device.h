// PmemDevice: virtio-pmem (virtio 1.2, 5.19), files of the host in the guest's address space. The
// guest reads them where they are, in the host's page cache: with a file system that maps files
// directly (DAX) nothing of them is copied, and guests of one file share it. It is read-only.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "devices/virtio/one_queue_device.h"
#include "devices/virtio/pmem/config.h"
#include "devices/virtio/pmem/pmem_files.h"
#include "src/base/event_loop.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::virtio {

class PmemDevice : public OneQueueDevice {
 public:
  // Requests that are served before the loop sees to its other tasks.
  static constexpr std::size_t kMaxTurn = 16;

  // Lays the files out in a window of `memory`, and serves on `loop`, whose thread must not wait
  // for the one that calls activate or deactivate.
  static Result<std::unique_ptr<PmemDevice>> create(const PmemConfig& config,
                                                    const std::string& name, GuestMemory& memory,
                                                    EventLoop& loop);
  ~PmemDevice() override { (void)deactivate(); }

  DeviceType type() const override { return DeviceType::pmem; }
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;
  NamedValues metrics() override;
  NamedValues status() const override;

 private:
  PmemDevice(EventLoop& loop, PmemFiles files)
      : OneQueueDevice(loop, kMaxTurn), files_(std::move(files)) {}
  Handled serve(const Chain& chain) override;

  const PmemFiles files_;
  std::string path_;
  bool is_slot_ = false;
  MemoryRange range_;
  std::vector<PmemFiles::Version> versions_;
  std::atomic<std::uint64_t> requests_{0};
};

}  // namespace vmm::virtio
