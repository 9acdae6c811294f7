#include "src/disk/magic_guard.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "src/base/log.h"
#include "src/disk/buffers.h"

namespace vmm::disk {
namespace {

constexpr std::array<char, 4> kQcow2Magic = {'Q', 'F', 'I', '\xfb'};
constexpr std::size_t kMaxBuffers = 1024;

class GuardedChannel : public Channel {
 public:
  GuardedChannel(std::unique_ptr<Channel> channel, const DiskInfo& info, const std::string& name)
      : channel_(std::move(channel)), info_(info), name_(name) {}
  // What is in flight uses the copies.
  ~GuardedChannel() override { channel_.reset(); }

  void submit(const Request& request) override {
    if (request.operation != Operation::write || request.offset != 0 ||
        request.length < info_.block_size) {
      channel_->submit(request);
      return;
    }
    submit_start(request);
  }
  void commit() override { channel_->commit(); }
  void wait() override {
    if (refused_.empty()) channel_->wait();
  }
  std::span<const Completion> reap() override {
    const auto done = channel_->reap();
    for (const auto& completion : done) {
      if (copies_.empty()) break;
      std::erase_if(copies_, [&](const Copy& copy) { return copy.tag == completion.tag; });
    }
    if (refused_.empty()) return done;
    reaped_.assign(done.begin(), done.end());
    reaped_.insert(reaped_.end(), refused_.begin(), refused_.end());
    refused_.clear();
    return reaped_;
  }

 private:
  struct Copy {
    std::uint32_t tag;
    std::unique_ptr<void, decltype(&std::free)> bytes;
    std::vector<iovec> buffers;
  };

  // The first block is copied, so that what was looked at is what is written: another processor of
  // the guest could change it meanwhile.
  void submit_start(const Request& request) {
    const std::size_t size = info_.block_size;
    const std::size_t alignment = std::max<std::size_t>(size, 4096);
    Copy copy{request.tag, {std::aligned_alloc(alignment, alignment), &std::free}, {}};
    if (!copy.bytes || request.buffers.size() >= kMaxBuffers) {
      refused_.push_back({request.tag, copy.bytes ? EINVAL : ENOMEM});
      return;
    }
    copy_bytes(request.buffers, {copy.bytes.get(), size}, Direction::from_buffers);
    if (std::memcmp(copy.bytes.get(), kQcow2Magic.data(), kQcow2Magic.size()) == 0) {
      log::warn_limited(log_limit_,
                        "disk '{}': its format was not said, so the guest may not make it a qcow2 "
                        "image; say 'format=raw' to allow it",
                        name_);
      refused_.push_back({request.tag, EPERM});
      return;
    }
    copy.buffers = skip_bytes(request.buffers, size);
    copy.buffers.insert(copy.buffers.begin(), {copy.bytes.get(), size});
    Request safe = request;
    copies_.push_back(std::move(copy));
    safe.buffers = copies_.back().buffers;
    channel_->submit(safe);
  }

  std::unique_ptr<Channel> channel_;
  const DiskInfo& info_;
  const std::string& name_;
  log::RateLimit log_limit_{3};
  std::vector<Copy> copies_;  // a move leaves the lists of buffers where they are
  std::vector<Completion> refused_, reaped_;
};

}  // namespace

std::unique_ptr<Channel> MagicGuard::open_channel(EventLoop& loop, std::function<void()> ready) {
  return std::make_unique<GuardedChannel>(disk_->open_channel(loop, std::move(ready)), info(),
                                          name());
}

}  // namespace vmm::disk
