// What the tests of images share: qemu-img as a second opinion, and a disk that is driven request
// by request.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include "src/disk/disk.h"
#include "src/disk/qcow2/check.h"
#include "src/disk/temporary_file.h"

namespace vmm::test {

struct Ran {
  int code = -1;
  std::string output;
};

inline Ran shell(const std::string& command) {
  Ran ran;
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "re");
  if (pipe == nullptr) return ran;
  std::array<char, 4096> chunk{};
  while (const std::size_t n = std::fread(chunk.data(), 1, chunk.size(), pipe)) {
    ran.output.append(chunk.data(), n);
  }
  const int status = ::pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ran;
}

inline bool have_qemu_img() {
  static const bool have = shell("qemu-img --version").code == 0;
  return have;
}
#define SKIP_WITHOUT_QEMU_IMG() \
  if (!::vmm::test::have_qemu_img()) GTEST_SKIP() << "qemu-img is not installed"

inline void qemu_img(const std::string& words) {
  const auto ran = shell("qemu-img " + words);
  ASSERT_EQ(ran.code, 0) << "qemu-img " << words << ": " << ran.output;
}

#define EXPECT_SENTENCE(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

template <typename T>
std::string error_of(const Result<T>& result) {
  return result ? "no error" : result.error().message();
}

// By our own check, and by QEMU's.
inline void expect_clean(const std::string& file) {
  const auto ours = disk::qcow2::check_image(file);
  ASSERT_TRUE(ours) << ours.error().message();
  EXPECT_TRUE(ours->is_clean()) << ours->leaks << " leaks, " << ours->corruptions;
  if (!have_qemu_img()) return;
  const auto checked = shell("qemu-img check -f qcow2 " + file);
  EXPECT_EQ(checked.code, 0) << checked.output;
}

// An open disk and a channel to it.
class DrivenDisk {
 public:
  static std::unique_ptr<DrivenDisk> open(const disk::DiskConfig& config) {
    auto opened = disk::open_disk(config);
    if (!opened) {
      ADD_FAILURE() << opened.error().message();
      return nullptr;
    }
    return std::make_unique<DrivenDisk>(std::move(*opened));
  }
  explicit DrivenDisk(std::unique_ptr<disk::Disk> disk)
      : disk_(std::move(disk)), loop_(std::move(EventLoop::create().value())) {
    channel_ = disk_->open_channel(*loop_, [] {});
  }
  ~DrivenDisk() { channel_.reset(); }

  disk::Disk& disk() { return *disk_; }
  disk::Channel& channel() { return *channel_; }

  // Carries one request out; the errno.
  int run(const disk::Request& request) {
    channel_->submit(request);
    channel_->commit();
    for (;;) {
      const auto done = channel_->reap();
      if (!done.empty()) return done[0].error;
      channel_->wait();
    }
  }
  std::string read(std::uint64_t offset, std::size_t length) {
    std::string text(length, '?');
    const iovec buffer{text.data(), length};
    disk::Request request;
    request.offset = offset;
    request.length = length;
    request.buffers = {&buffer, 1};
    EXPECT_EQ(run(request), 0) << "read of " << length << " at " << offset;
    return text;
  }
  int write(std::uint64_t offset, const std::string& text, bool durable = false) {
    const iovec buffer{const_cast<char*>(text.data()), text.size()};
    disk::Request request;
    request.operation = disk::Operation::write;
    request.durable = durable;
    request.offset = offset;
    request.length = text.size();
    request.buffers = {&buffer, 1};
    return run(request);
  }
  int range(disk::Operation operation, std::uint64_t offset, std::uint64_t length,
            bool may_unmap = false) {
    disk::Request request;
    request.operation = operation;
    request.may_unmap = may_unmap;
    request.offset = offset;
    request.length = length;
    return run(request);
  }
  Result<void> grow(std::uint64_t size) {
    channel_.reset();
    auto grown = disk_->grow(size);
    channel_ = disk_->open_channel(*loop_, [] {});
    return grown;
  }
  int flush() { return range(disk::Operation::flush, 0, 0); }

 private:
  std::unique_ptr<disk::Disk> disk_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<disk::Channel> channel_;
};

}  // namespace vmm::test
