// A process that writes at random is killed at random; what it leaves is in order.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <vector>

#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_test_support.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::shell;
using test::TemporaryDirectory;

constexpr std::uint64_t kSize = 8u << 20;
constexpr std::uint64_t kSectors = kSize / kSectorSize;

// What the child tells: before it submits a request, and after a flush completed.
struct Record {
  Operation operation;
  std::uint64_t sequence;
  std::uint64_t first, count;  // sectors
};

std::string sector_of(std::uint64_t sequence, std::uint64_t sector) {
  std::string text(kSectorSize, '\0');
  if (sequence == 0) return text;
  for (std::size_t i = 0; i < kSectorSize; i += 16) {
    std::memcpy(&text[i], &sequence, 8);
    std::memcpy(&text[i + 8], &sector, 8);
  }
  return text;
}

void tell(int fd, const Record& record) {
  if (::write(fd, &record, sizeof record) != sizeof record) ::_exit(1);
}

[[noreturn]] void write_until_killed(const std::string& path, int fd, std::uint64_t sequence) {
  auto disk = open_disk({.path = path});
  if (!disk) ::_exit(2);
  DrivenDisk driven(std::move(*disk));
  std::mt19937_64 random(sequence);
  for (;;) {
    Record record{Operation::write, ++sequence, random() % kSectors, 0};
    record.count =
        std::min(1 + random() % (random() % 8 == 0 ? 1000 : 40), kSectors - record.first);
    const std::uint64_t offset = record.first * kSectorSize;
    const std::uint64_t length = record.count * kSectorSize;
    int error = 0;
    switch (random() % 8) {
      case 0:
        record.operation = Operation::write_zeroes;
        tell(fd, record);
        error = driven.range(Operation::write_zeroes, offset, length, random() % 2 == 0);
        break;
      case 1:
        record.operation = Operation::discard;
        tell(fd, record);
        error = driven.range(Operation::discard, offset, length);
        break;
      case 2:
        error = driven.flush();
        record.operation = Operation::flush;
        tell(fd, record);
        break;
      default: {
        tell(fd, record);
        std::string text;
        for (std::uint64_t i = 0; i < record.count; ++i) {
          text += sector_of(sequence, record.first + i);
        }
        error = driven.write(offset, text);
      }
    }
    if (error != 0) ::_exit(3);
  }
}

class KillTest : public ::testing::TestWithParam<const char*> {
 protected:
  // What a sector may have: what was flushed last, and all since then.
  std::vector<std::vector<std::uint64_t>> allowed_ =
      std::vector<std::vector<std::uint64_t>>(kSectors, {0});
  std::vector<bool> discarded_ = std::vector<bool>(kSectors);
  std::uint64_t sequence_ = 1;

  void note(const Record& record) {
    sequence_ = std::max(sequence_, record.sequence);
    if (record.operation == Operation::flush) {
      for (std::uint64_t s = 0; s < kSectors; ++s) {
        if (discarded_[s]) continue;
        allowed_[s].erase(allowed_[s].begin(), allowed_[s].end() - 1);
      }
      return;
    }
    for (std::uint64_t s = record.first; s < record.first + record.count; ++s) {
      const bool writes = record.operation == Operation::write;
      allowed_[s].push_back(writes ? record.sequence : 0);
      discarded_[s] = record.operation == Operation::discard;
    }
  }

  void run_and_kill(const std::string& path, int milliseconds) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd from(ends[0]), to(ends[1]);
    ASSERT_GT(::fcntl(to.get(), F_SETPIPE_SZ, 1 << 20), 0);
    const pid_t child = ::fork();
    if (child == 0) write_until_killed(path, to.get(), sequence_);
    to.reset();
    // Nothing to wait for but time: the moment is meant to be any.
    (void)::poll(nullptr, 0, milliseconds);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself: " << WEXITSTATUS(status);
    Record record{};
    while (::read(from.get(), &record, sizeof record) == sizeof record) note(record);
  }

  void expect_right(const std::string& path) {
    auto ours = check_image(path);
    // The kernel may take a killed process's io_uring apart, and let go of its lock, a little
    // later.
    for (int i = 0; i < 500 && !ours; ++i) {
      (void)::poll(nullptr, 0, 10);
      ours = check_image(path);
    }
    ASSERT_TRUE(ours) << ours.error().message();
    ASSERT_EQ(ours->corruptions, 0u);
    const auto checked = shell("qemu-img check -f qcow2 " + path);
    ASSERT_TRUE(checked.code == 0 || checked.code == 3) << checked.output;
    const auto disk = DrivenDisk::open({.path = path, .read_only = true});
    ASSERT_TRUE(disk);
    const auto content = disk->read(0, kSize);
    for (std::uint64_t s = 0; s < kSectors; ++s) {
      const auto sector = std::string_view(content).substr(s * kSectorSize, kSectorSize);
      const auto found = std::ranges::find_if(
          allowed_[s], [&](std::uint64_t sequence) { return sector == sector_of(sequence, s); });
      ASSERT_NE(found, allowed_[s].end()) << "sector " << s;
      allowed_[s] = {*found};  // the next process starts from that
      discarded_[s] = false;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Images, KillTest,
                         ::testing::Values("", "-o cluster_size=4k", "-o compat=0.10",
                                           "-o cluster_size=512,refcount_bits=64",
                                           "-o backing_file=base,backing_fmt=qcow2"),
                         [](const auto& options) { return fmt::format("Image{}", options.index); });

TEST_P(KillTest, LeavesNoCorruptionAndAllThatWasFlushed) {
  SKIP_WITHOUT_QEMU_IMG();
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/disk";
  ASSERT_TRUE(create_image({.path = directory.path() + "/base", .size = kSize}));
  const auto made = shell("qemu-img create -q -f qcow2 " + std::string(GetParam()) + " " + path +
                          " " + std::to_string(kSize));
  ASSERT_EQ(made.code, 0) << made.output;
  std::mt19937 random(3);
  for (int i = 0; i < 12; ++i) {
    SCOPED_TRACE(i);
    run_and_kill(path, static_cast<int>(5 + random() % 150));
    if (HasFatalFailure()) return;
    expect_right(path);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(sequence_, 12u) << "something was written";
  const auto repaired = check_image(path, Repair::leaks);
  ASSERT_TRUE(repaired) << repaired.error().message();
  EXPECT_TRUE(repaired->is_clean());
  const auto checked = shell("qemu-img check -f qcow2 " + path);
  EXPECT_EQ(checked.code, 0) << checked.output;
}

}  // namespace
}  // namespace vmm::disk::qcow2
