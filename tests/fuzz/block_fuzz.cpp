// The block device's queue handling, over a disk that aborts when it is asked for what no disk may
// be asked for.
#include <cstdlib>

#include "devices/virtio/blk/block_queue.h"
#include "tests/fuzz/device_input.h"

namespace vmm {
namespace {

constexpr std::uint64_t kDiskSize = 32u << 10;

void require(bool condition) {
  if (!condition) std::abort();
}

class MemoryChannel : public disk::Channel {
 public:
  explicit MemoryChannel(std::vector<std::byte>& content) : content_(content) {}

  void submit(const disk::Request& request) override {
    if (request.operation != disk::Operation::flush) check(request);
    std::uint64_t at = request.offset;
    for (const auto& buffer : request.buffers) {
      if (buffer.iov_len == 0) continue;
      if (request.operation == disk::Operation::read) {
        std::memmove(buffer.iov_base, content_.data() + at, buffer.iov_len);
      } else {
        std::memmove(content_.data() + at, buffer.iov_base, buffer.iov_len);
      }
      at += buffer.iov_len;
    }
    // Some complete at once, some later.
    (request.tag % 2 == 0 ? done_ : later_).push_back({request.tag, 0});
  }
  void commit() override {}
  std::span<const disk::Completion> reap() override {
    reaped_ = std::exchange(done_, {});
    return reaped_;
  }
  void wait() override {
    done_.insert(done_.end(), later_.begin(), later_.end());
    later_.clear();
  }

 private:
  void check(const disk::Request& request) const {
    require(request.length > 0 && request.length % 512 == 0 && request.offset % 512 == 0);
    require(request.offset <= kDiskSize && request.length <= kDiskSize - request.offset);
    std::uint64_t total = 0;
    for (const auto& buffer : request.buffers) total += buffer.iov_len;
    const bool transfer =
        request.operation == disk::Operation::read || request.operation == disk::Operation::write;
    require(total == (transfer ? request.length : 0));
  }

  std::vector<std::byte>& content_;
  std::vector<disk::Completion> done_, later_, reaped_;
};

class MemoryDisk : public disk::Disk {
 public:
  Result<void> read(std::uint64_t, std::span<std::byte>) override { return {}; }
  MemoryDisk() { info_.size = kDiskSize, info_.can_discard = info_.can_write_zeroes = true; }
  const disk::DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return name_; }
  std::unique_ptr<disk::Channel> open_channel(EventLoop&, std::function<void()>) override {
    return std::make_unique<MemoryChannel>(content_);
  }
  Result<void> sync() override { return {}; }

 private:
  disk::DiskInfo info_;
  std::string name_ = "memory";
  std::vector<std::byte> content_ = std::vector<std::byte>(kDiskSize);
};

}  // namespace
}  // namespace vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::FuzzGuest guest;
  static MemoryDisk disk;
  std::span input(data, size);
  const auto features =
      fuzz::take_features(input, virtio::blk::kFeatureFlush | virtio::blk::kFeatureDiscard |
                                     virtio::blk::kFeatureWriteZeroes);
  guest.load(input);
  virtio::blk::BlockShared shared{&disk, "serial", disk::RateLimiter({}, {}), {}};
  virtio::blk::BlockQueue queue(shared, guest.loop(), 0, guest.queue(0, features), features,
                                guest.interrupts());
  queue.start();
  queue.drain();
  (void)queue.stop();
  return 0;
}
