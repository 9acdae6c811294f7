#include "src/disk/raw_disk.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <map>
#include <random>
#include <thread>

#include "src/disk/buffers.h"
#include "src/disk/temporary_file.h"
#include "src/disk/thread_engine.h"

namespace vmm::disk {
namespace {

using test::kInMemory;
using test::kOnDisk;
using test::TemporaryDirectory;

std::string open_error(const DiskConfig& config) {
  const auto disk = open_disk(config);
  return disk ? "no error" : disk.error().message();
}

#define EXPECT_SENTENCE(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(RawDiskOpen, RefusesWhatIsNoDisk) {
  const TemporaryDirectory directory;
  EXPECT_SENTENCE(open_error({.path = directory.path() + "/none"}), "does not exist");
  EXPECT_SENTENCE(open_error({.path = directory.file("f", 512) + "/none"}), "does not exist");
  EXPECT_SENTENCE(open_error({.path = directory.file("empty", 0)}), "is empty");
  EXPECT_SENTENCE(open_error({.path = directory.path()}), "is a directory");
  EXPECT_SENTENCE(open_error({.path = directory.path(), .read_only = true}), "is a directory");
  EXPECT_SENTENCE(open_error({.path = "/dev/null"}), "neither a file nor a block device");
  EXPECT_SENTENCE(open_error({.path = ""}), "does not exist");
  const std::string fifo = directory.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_SENTENCE(open_error({.path = fifo, .read_only = true}), "neither a file nor");
}

TEST(RawDiskOpen, RefusesOddSizes) {
  const TemporaryDirectory directory;
  const auto error = open_error({.path = directory.file("odd", 1000)});
  EXPECT_SENTENCE(error, "has 1000 bytes, which is not a multiple of 512");
  EXPECT_SENTENCE(error, "truncate -s %512");
}

// In a child, as root may write anything.
TEST(RawDiskOpen, SaysHowToAttachWhatIsNotWritable) {
  const TemporaryDirectory directory("/tmp");
  const auto path = directory.file("disk", 4096);
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  ASSERT_EQ(::chmod(directory.path().c_str(), 0755), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(3);
    const auto error = open_error({.path = path});
    const bool told = error.find("is not writable; add ',ro'") != std::string::npos;
    const bool readable = open_error({.path = path, .read_only = true}) == "no error";
    ::_exit(!told ? 1 : !readable ? 2 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(RawDiskOpen, LocksAgainstASecondUser) {
  const TemporaryDirectory directory;
  const auto path = directory.file("disk", 4096);
  {
    const auto writer = open_disk({.path = path});
    ASSERT_TRUE(writer);
    EXPECT_SENTENCE(open_error({.path = path}), "in use by another vmm");
    EXPECT_SENTENCE(open_error({.path = path, .read_only = true}), "that writes to it");
  }
  {
    const auto reader = open_disk({.path = path, .read_only = true});
    ASSERT_TRUE(reader);
    EXPECT_EQ(open_error({.path = path, .read_only = true}), "no error");
    EXPECT_SENTENCE(open_error({.path = path}), "use the disk read-only in both");
  }
  EXPECT_EQ(open_error({.path = path}), "no error");
}

TEST(RawDiskOpen, TheLockGoesWithTheProcess) {
  const TemporaryDirectory directory;
  const auto path = directory.file("disk", 4096);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto disk = open_disk({.path = path});
    (void)!::write(ready[1], disk ? "y" : "n", 1);
    ::pause();
    ::_exit(0);
  }
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  EXPECT_SENTENCE(open_error({.path = path}), "in use by another vmm");
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(open_error({.path = path}), "no error");
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(RawDiskOpen, TellsWhatItOpened) {
  const TemporaryDirectory directory;
  const auto path = directory.file("disk", 1u << 20);
  const auto disk = open_disk({.path = path}).value();
  EXPECT_EQ(disk->info().size, 1u << 20);
  EXPECT_EQ(disk->info().block_size, 512u);
  EXPECT_FALSE(disk->info().read_only);
  EXPECT_TRUE(disk->info().can_discard);
  EXPECT_EQ(disk->name(), path);
  EXPECT_TRUE(disk->sync());
  const auto other = directory.file("other", 512);
  const auto read_only = open_disk({.path = other, .read_only = true}).value();
  EXPECT_TRUE(read_only->info().read_only);
  EXPECT_FALSE(read_only->info().can_discard);
}

// The ways that a request can take.
struct Way {
  const char* name;
  const char* parent;
  IoEngine io;
  bool direct;
};
const Way kWays[] = {
    {"MemoryAutomatic", kInMemory, IoEngine::automatic, false},
    {"MemoryUring", kInMemory, IoEngine::uring, false},
    {"MemoryThreads", kInMemory, IoEngine::threads, false},
    {"DiskAutomatic", kOnDisk, IoEngine::automatic, false},
    {"DiskUring", kOnDisk, IoEngine::uring, false},
    {"DiskThreads", kOnDisk, IoEngine::threads, false},
    {"DirectAutomatic", kOnDisk, IoEngine::automatic, true},
    {"DirectThreads", kOnDisk, IoEngine::threads, true},
};

class ChannelTest : public ::testing::TestWithParam<Way> {
 protected:
  static constexpr std::size_t kSize = 4u << 20;

  void SetUp() override {
    path_ = directory_.file("disk", kSize);
    auto opened = open_disk({.path = path_, .direct = GetParam().direct, .io = GetParam().io});
    if (!opened && GetParam().direct) GTEST_SKIP() << opened.error().message();
    if (!opened && GetParam().io == IoEngine::uring) GTEST_SKIP() << opened.error().message();
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
    loop_ = std::move(EventLoop::create().value());
    channel_ = disk_->open_channel(*loop_, [this] {
      ++ready_;
      loop_->stop();
    });
    model_ = TemporaryDirectory::pattern(kSize);
  }

  // Carries one request out.
  int run(Request request) {
    request.tag = 77;
    channel_->submit(request);
    channel_->commit();
    for (;;) {
      const auto done = channel_->reap();
      if (!done.empty()) {
        EXPECT_EQ(done.size(), 1u);
        EXPECT_EQ(done[0].tag, 77u);
        return done[0].error;
      }
      channel_->wait();
    }
  }
  static Request transfer(Operation operation, std::uint64_t offset,
                          std::span<const iovec> buffers) {
    Request request;
    request.operation = operation;
    request.offset = offset;
    for (const auto& buffer : buffers) request.length += buffer.iov_len;
    request.buffers = buffers;
    return request;
  }
  std::string read(std::uint64_t offset, std::size_t length) {
    std::string target(length, '?');
    const iovec buffer{target.data(), length};
    EXPECT_EQ(run(transfer(Operation::read, offset, {&buffer, 1})), 0);
    return target;
  }
  static Request range(Operation operation, std::uint64_t offset, std::uint64_t length,
                       bool unmap = false) {
    Request request;
    request.operation = operation;
    request.may_unmap = unmap;
    request.offset = offset;
    request.length = length;
    return request;
  }

  TemporaryDirectory directory_{GetParam().parent};
  std::string path_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Channel> channel_;
  std::string model_;
  int ready_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Ways, ChannelTest, ::testing::ValuesIn(kWays),
                         [](const auto& way) { return std::string(way.param.name); });

TEST_P(ChannelTest, ReadsWhatIsThere) {
  EXPECT_EQ(read(0, 4096), model_.substr(0, 4096));
  EXPECT_EQ(read(kSize - 512, 512), model_.substr(kSize - 512));
  EXPECT_EQ(read(512, 1u << 20), model_.substr(512, 1u << 20));
}

TEST_P(ChannelTest, GathersAndScatters) {
  std::string a(512, 'a'), b(1536, 'b'), c(2048, 'c');
  const iovec buffers[] = {
      {a.data(), a.size()}, {nullptr, 0}, {b.data(), b.size()}, {c.data(), c.size()}};
  EXPECT_EQ(run(transfer(Operation::write, 8192, buffers)), 0);
  EXPECT_EQ(TemporaryDirectory::content(path_).substr(8192, 4096), a + b + c);
  std::string x(3584, ' '), y(512, ' ');
  const iovec back[] = {{x.data(), x.size()}, {y.data(), y.size()}};
  EXPECT_EQ(run(transfer(Operation::read, 8192, back)), 0);
  EXPECT_EQ(x + y, a + b + c);
}

TEST_P(ChannelTest, WritesDurably) {
  std::string text(4096, 'd');
  const iovec buffer{text.data(), text.size()};
  auto request = transfer(Operation::write, 0, {&buffer, 1});
  request.durable = true;
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(read(0, 4096), text);
}

TEST_P(ChannelTest, ZeroesAndDiscards) {
  EXPECT_EQ(run(range(Operation::write_zeroes, 4096, 8192)), 0);
  EXPECT_EQ(read(4096, 8192), std::string(8192, '\0'));
  EXPECT_EQ(run(range(Operation::write_zeroes, 1u << 20, 1u << 20, true)), 0);
  EXPECT_EQ(read(1u << 20, 1u << 20), std::string(1u << 20, '\0'));
  EXPECT_EQ(run(range(Operation::write_zeroes, 512, 1024)), 0) << "less than a page";
  EXPECT_EQ(read(0, 2048),
            model_.substr(0, 512) + std::string(1024, '\0') + model_.substr(1536, 512));
  EXPECT_EQ(run(range(Operation::discard, 2u << 20, 1u << 20)), 0);
  EXPECT_EQ(read(3u << 20, 4096), model_.substr(3u << 20, 4096));
  struct stat status{};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(static_cast<std::size_t>(status.st_size), kSize) << "the size stays";
  EXPECT_LE(static_cast<std::size_t>(status.st_blocks) * 512, kSize - (2u << 20)) << "given back";
}

TEST_P(ChannelTest, FlushComesAfterTheWritesBeforeIt) {
  std::string text(16384, 'f');
  const iovec buffer{text.data(), text.size()};
  constexpr std::uint32_t kWrites = 64;
  for (std::uint32_t i = 0; i < kWrites; ++i) {
    auto request = transfer(Operation::write, std::uint64_t{i} * 16384, {&buffer, 1});
    request.tag = i;
    channel_->submit(request);
  }
  Request flush;
  flush.operation = Operation::flush;
  flush.tag = kWrites;
  channel_->submit(flush);
  auto late = transfer(Operation::write, 3u << 20, {&buffer, 1});
  late.tag = kWrites + 1;
  channel_->submit(late);
  channel_->commit();
  std::vector<std::uint32_t> order;
  while (order.size() < kWrites + 2) {
    for (const auto& done : channel_->reap()) {
      EXPECT_EQ(done.error, 0);
      order.push_back(done.tag);
    }
    channel_->wait();
  }
  const auto flushed = std::find(order.begin(), order.end(), kWrites);
  const auto before = std::count_if(order.begin(), flushed, [](auto tag) { return tag < kWrites; });
  EXPECT_EQ(before, kWrites);
}

TEST_P(ChannelTest, ManyAtOnceReportedThroughTheLoop) {
  constexpr std::uint32_t kCount = 700;  // more than a ring has entries
  std::vector<std::string> texts(kCount, std::string(512, ' '));
  std::vector<iovec> buffers(kCount);
  for (std::uint32_t i = 0; i < kCount; ++i) {
    buffers[i] = {texts[i].data(), 512};
    auto request = transfer(Operation::read, std::uint64_t{i} * 4096, {&buffers[i], 1});
    request.tag = i;
    channel_->submit(request);
  }
  channel_->commit();
  std::size_t done = channel_->reap().size();
  while (done < kCount) {
    loop_->run();  // until the channel is ready
    done += channel_->reap().size();
  }
  EXPECT_EQ(done, kCount);
  for (std::uint32_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(texts[i], model_.substr(std::size_t{i} * 4096, 512)) << i;
  }
}

TEST_P(ChannelTest, AFileThatWasCutIsAnErrorNotAHang) {
  ASSERT_EQ(::truncate(path_.c_str(), 8192), 0);
  std::string target(4096, ' ');
  const iovec buffer{target.data(), target.size()};
  EXPECT_EQ(run(transfer(Operation::read, 1u << 20, {&buffer, 1})), EIO);
  std::string longer(16384, ' ');
  const iovec across{longer.data(), longer.size()};
  EXPECT_EQ(run(transfer(Operation::read, 0, {&across, 1})), EIO) << "short, then nothing";
}

TEST_P(ChannelTest, TheLockEndsWithTheDisk) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(read(0, 512), model_.substr(0, 512));
    channel_.reset();
    disk_.reset();
    auto again = open_disk({.path = path_, .direct = GetParam().direct, .io = GetParam().io});
    ASSERT_TRUE(again) << again.error().message();
    disk_ = std::move(*again);
    channel_ = disk_->open_channel(*loop_, [] {});
  }
}

TEST_P(ChannelTest, DestructionWaitsForWhatIsInFlight) {
  std::string text(1u << 20, 'x');
  const iovec buffer{text.data(), text.size()};
  for (std::uint32_t i = 0; i < 3; ++i) {
    channel_->submit(transfer(Operation::write, std::uint64_t{i} << 20, {&buffer, 1}));
  }
  channel_->submit(range(Operation::flush, 0, 0));
  channel_.reset();
  EXPECT_EQ(TemporaryDirectory::content(path_).substr(0, 3u << 20), std::string(3u << 20, 'x'));
}

TEST_P(ChannelTest, RandomRequestsMatchAModel) {
  std::mt19937 random(7);
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t offset = random() % (kSize / 512) * 512;
    const std::uint64_t length = std::min<std::uint64_t>((1 + random() % 64) * 512, kSize - offset);
    switch (random() % 5) {
      case 0:
      case 1:
        EXPECT_EQ(read(offset, length), model_.substr(offset, length)) << i;
        break;
      case 2: {
        std::string text(length, static_cast<char>(i));
        const iovec buffer{text.data(), length};
        EXPECT_EQ(run(transfer(Operation::write, offset, {&buffer, 1})), 0);
        model_.replace(offset, length, text);
        break;
      }
      case 3:
        EXPECT_EQ(run(range(Operation::write_zeroes, offset, length, i % 2 == 0)), 0);
        model_.replace(offset, length, std::string(length, '\0'));
        break;
      default:
        EXPECT_EQ(run(range(Operation::flush, 0, 0)), 0);
    }
  }
  EXPECT_EQ(TemporaryDirectory::content(path_), model_);
}

TEST_P(ChannelTest, SeveralChannelsWorkSideBySide) {
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 3; ++t) {
    threads.emplace_back([this, t] {
      const auto loop = std::move(EventLoop::create().value());
      const auto channel = disk_->open_channel(*loop, [] {});
      std::string text(4096, static_cast<char>('a' + t));
      const iovec buffer{text.data(), text.size()};
      for (std::size_t i = 0; i < 50; ++i) {
        channel->submit(transfer(Operation::write, (i * 3 + t) * 4096, {&buffer, 1}));
        if (i % 10 == 9) channel->submit(range(Operation::flush, 0, 0));
        channel->commit();
        for (std::size_t left = i % 10 == 9 ? 2 : 1; left > 0;) {
          channel->wait();
          left -= channel->reap().size();
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto content = TemporaryDirectory::content(path_);
  for (std::size_t i = 0; i < 150; ++i) {
    EXPECT_EQ(content[i * 4096], static_cast<char>('a' + i % 3)) << i;
  }
}

// Answers io_uring_setup with EPERM from now on, as hosts do that forbid it.
bool forbid_io_uring() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{std::size(code), code};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// The exit code says which step went wrong.
int use_disk_without_io_uring(const std::string& path) {
  if (!forbid_io_uring()) return 1;
  const auto error = open_error({.path = path, .io = IoEngine::uring});
  if (error.find("leave ',io=uring' out") == std::string::npos) return 2;
  const auto disk = open_disk({.path = path});
  if (!disk) return 3;
  const auto loop = std::move(EventLoop::create().value());
  const auto channel = (*disk)->open_channel(*loop, [] {});
  std::string text(4096, ' ');
  const iovec buffer{text.data(), text.size()};
  Request request;
  request.length = text.size();
  request.buffers = {&buffer, 1};
  channel->submit(request);
  channel->commit();
  channel->wait();
  if (channel->reap().size() != 1) return 4;
  return text == TemporaryDirectory::pattern(4096) ? 0 : 5;
}

TEST(RawDisk, UsesThreadsWhereIoUringIsForbidden) {
  const TemporaryDirectory directory;
  const auto path = directory.file("disk", 4096);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(use_disk_without_io_uring(path));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(ThreadEngine, WhatARequestThrowsFailsItAlone) {
  const auto perform = [](const Request& request) {
    if (request.tag == 1) throw std::bad_alloc();
    return request.tag == 2 ? EIO : 0;
  };
  const auto engine = std::move(ThreadEngine::create(perform).value());
  for (std::uint32_t tag = 1; tag <= 3; ++tag) engine->submit({.tag = tag});
  std::map<std::uint32_t, int> errors;
  while (errors.size() < 3) {
    pollfd done{engine->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&done, 1, 10'000), 1);
    std::vector<Completion> completions;
    engine->reap(completions);
    for (const auto& completion : completions) errors[completion.tag] = completion.error;
  }
  EXPECT_EQ(errors, (std::map<std::uint32_t, int>{{1, ENOMEM}, {2, EIO}, {3, 0}}));
}

TEST(Buffers, SkipBytes) {
  char data[16];
  const iovec buffers[] = {{data, 4}, {data + 4, 0}, {data + 4, 4}, {data + 8, 8}};
  const auto rest = skip_bytes(buffers, 6);
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[0].iov_base, data + 6);
  EXPECT_EQ(rest[0].iov_len, 2u);
  EXPECT_EQ(rest[1].iov_base, data + 8);
  EXPECT_TRUE(skip_bytes(buffers, 16).empty());
}

}  // namespace
}  // namespace vmm::disk
