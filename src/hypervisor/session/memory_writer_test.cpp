#include "src/hypervisor/session/memory_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <array>
#include <cstring>

#include "src/base/progress_for_test.h"

namespace vmm {
namespace {

constexpr std::uint64_t kSize = 32u << 20;

class MemoryWriterTest : public ::testing::Test {
 protected:
  MemoryWriterTest() {
    constexpr std::array kRanges = {MemoryRange{GuestAddress{0}, kSize}};
    memory_ = std::move(GuestMemory::create(kRanges).value());
    std::memset(memory_->slice(GuestAddress{0}, kSize)->data(), 'x', kSize);
    file_ = std::move(open_unnamed_file("/tmp").value());
    EXPECT_EQ(::ftruncate(file_.get(), kSize), 0);
  }
  MemoryToWrite what() const {
    return {.memory = *memory_, .candidates = {}, .file = file_.get(), .path = "memory"};
  }
  char written(std::uint64_t at) const {
    char byte = 0;
    EXPECT_TRUE(read_exact_at(file_.get(), std::as_writable_bytes(std::span(&byte, 1)), at));
    return byte;
  }

  std::unique_ptr<GuestMemory> memory_;
  UniqueFd file_;
};

TEST_F(MemoryWriterTest, WritesHereAndInAFork) {
  JobProgress here;
  const auto layer = write_memory(what(), here);
  ASSERT_TRUE(layer) << layer.error().message();
  EXPECT_TRUE(layer->complete);
  EXPECT_EQ(here.state().done, kSize);
  EXPECT_EQ(written(kSize - 1), 'x');

  std::memset(memory_->slice(GuestAddress{0}, kSize)->data(), 'y', kSize);
  auto fork = ForkedWriter::start(what());
  ASSERT_TRUE(fork) << fork.error().message();
  // What is written from now on is not in it.
  std::memset(memory_->slice(GuestAddress{0}, kSize)->data(), 'z', kSize);
  JobProgress there;
  ASSERT_TRUE(fork->wait(there));
  EXPECT_EQ(written(0), 'y');
  EXPECT_EQ(written(kSize - 1), 'y');
  EXPECT_EQ(there.state().phase, "writing memory");
  EXPECT_EQ(there.state().total, kSize);
  EXPECT_GE(there.state().done, kSize - (4u << 20)) << "it says how far it is";
}

TEST_F(MemoryWriterTest, ChangedPagesOfManyPiecesAreOneExtent) {
  constexpr std::array kRanges = {MemoryRange{GuestAddress{0}, kSize}};
  const auto parent = std::move(GuestMemory::create(kRanges).value());
  const std::array<snapshot::Extent, 1> all = {snapshot::Extent{0, kSize}};
  auto changed = what();
  changed.parent = parent.get();
  changed.candidates = all;
  const auto layer = write_memory(changed, Progress::none());
  ASSERT_TRUE(layer) << layer.error().message();
  EXPECT_FALSE(layer->complete);
  EXPECT_EQ(layer->extents, (std::vector<snapshot::Extent>{{0, kSize}}));
}

TEST_F(MemoryWriterTest, IsCancelledAtEachPoint) {
  unsigned at = 0;
  for (;; ++at) {
    test::CancelsAt progress(at);
    const auto written = write_memory(what(), progress);
    if (written) break;
    EXPECT_EQ(written.error().code(), kCancelled);
  }
  EXPECT_GT(at, 4u) << "it is heard every few MiB";
}

TEST_F(MemoryWriterTest, AForkThatIsCancelledIsKilled) {
  auto fork = ForkedWriter::start(what());
  ASSERT_TRUE(fork);
  JobProgress progress;
  progress.cancel();
  const auto stopped = fork->wait(progress);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code(), kCancelled);
  {
    const auto gone = std::move(*fork);
  }
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "no child is left";
}

TEST_F(MemoryWriterTest, AForkSaysWhyItFailed) {
  auto full = what();
  const UniqueFd device(::open("/dev/full", O_RDWR | O_CLOEXEC));
  full.file = device.get();
  auto fork = ForkedWriter::start(full);
  ASSERT_TRUE(fork);
  EXPECT_EQ(fork->wait(Progress::none()).error().message(),
            "cannot write 'memory': write of 4194304 bytes at offset 0: No space left on device");
}

TEST_F(MemoryWriterTest, AForkThatCannotKeepItsFilesSaysSo) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  rlimit few = limit;
  few.rlim_cur = 10;  // where it wants to put them
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  auto fork = ForkedWriter::start(what());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_TRUE(fork) << fork.error().message();
  EXPECT_EQ(fork->wait(Progress::none()).error().message(),
            "cannot keep the files of a live snapshot: Invalid argument");

  few.rlim_cur = 3;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  const auto none = ForkedWriter::start(what());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message(),
            "cannot make a pipe to write the memory of a live snapshot: Too many open files");
}

TEST_F(MemoryWriterTest, SyncingIsCancelledToo) {
  ASSERT_TRUE(write_memory(what(), Progress::none()));
  unsigned at = 0;
  for (;; ++at) {
    test::CancelsAt progress(at);
    if (sync_sparse(file_.get(), kSize, progress)) break;
  }
  EXPECT_GE(at, kSize / (4u << 20));
}

}  // namespace
}  // namespace vmm
