#include "src/base/acceptor.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <filesystem>
#include <thread>

#include "src/base/no_descriptors_for_test.h"
#include "src/base/unix_socket.h"
#include "src/base/worker.h"

namespace vmm {
namespace {

class AcceptorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(::mkdtemp(directory_), nullptr);
    listener_.emplace(std::move(UnixListener::create(path()).value()));
    on_loop([this] {
      acceptor_.emplace(worker_->loop(), listener_->fd(), [this](UniqueFd) { ++taken_; });
      EXPECT_TRUE(acceptor_->start());
    });
  }
  void TearDown() override {
    on_loop([this] { acceptor_.reset(); });
    listener_.reset();
    std::filesystem::remove_all(directory_);
  }
  template <typename Task>
  void on_loop(Task task) {
    worker_->loop().call(task);
  }
  std::string path() const { return fmt::format("{}/socket", directory_); }
  bool takes(unsigned count) const {
    for (int i = 0; i < 1000 && taken_ < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return taken_ == count;
  }
  // What the loop's thread has worked.
  std::chrono::nanoseconds work() {
    timespec time{};
    on_loop([&] { ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time); });
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }

  char directory_[32] = "/tmp/vmm-accept-XXXXXX";
  std::unique_ptr<Worker> worker_ = std::move(Worker::start("acceptor").value());
  std::optional<UnixListener> listener_;
  std::optional<Acceptor> acceptor_;
  std::atomic<unsigned> taken_ = 0;
};

TEST_F(AcceptorTest, TakesWhatComes) {
  const auto one = connect_unix(path()), two = connect_unix(path());
  ASSERT_TRUE(one && two);
  EXPECT_TRUE(takes(2));
}

TEST_F(AcceptorTest, TakesNothingOnceStopped) {
  on_loop([this] { acceptor_->stop(); });
  const auto client = connect_unix(path());
  ASSERT_TRUE(client);
  on_loop([] {});
  EXPECT_EQ(taken_, 0u);
  on_loop([this] { EXPECT_TRUE(acceptor_->start()); });
  EXPECT_TRUE(takes(1));
}

TEST_F(AcceptorTest, WithoutDescriptorsItRestsAndThenGoesOn) {
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = UnixAddress::of(path()).value();
  {
    const test::NoDescriptors none;
    ASSERT_EQ(::connect(client.get(), address.get(), address.size()), 0);
    const auto before = work();
    std::this_thread::sleep_for(5 * Acceptor::kPause);
    EXPECT_LT(work() - before, Acceptor::kPause);
    EXPECT_EQ(taken_, 0u);
  }
  EXPECT_TRUE(takes(1));
}

TEST_F(AcceptorTest, MayGoWhileItRests) {
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = UnixAddress::of(path()).value();
  const test::NoDescriptors none;
  ASSERT_EQ(::connect(client.get(), address.get(), address.size()), 0);
  on_loop([] {});
  on_loop([this] { acceptor_.reset(); });
  std::this_thread::sleep_for(2 * Acceptor::kPause);
  EXPECT_EQ(taken_, 0u);
}

}  // namespace
}  // namespace vmm
