#include "src/disk/empty_disk.h"

#include <cerrno>
#include <utility>
#include <vector>

namespace vmm::disk {
namespace {

class EmptyChannel : public Channel {
 public:
  void submit(const Request& request) override { completed_.push_back({request.tag, EIO}); }
  void commit() override {}
  std::span<const Completion> reap() override {
    told_ = std::exchange(completed_, {});
    return told_;
  }
  void wait() override {}

 private:
  std::vector<Completion> completed_, told_;
};

}  // namespace

std::unique_ptr<Channel> EmptyDisk::open_channel(EventLoop&, std::function<void()>) {
  return std::make_unique<EmptyChannel>();
}

Result<void> EmptyDisk::read(std::uint64_t, std::span<std::byte>) {
  return fail("there is no disk in the slot");
}

}  // namespace vmm::disk
