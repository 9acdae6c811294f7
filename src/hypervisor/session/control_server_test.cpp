#include "src/hypervisor/session/control_server.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "src/base/worker.h"

namespace vmm {
namespace {

class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest() {
    EXPECT_NE(::mkdtemp(directory_), nullptr);
    path_ = fmt::format("{}/control", directory_);
    worker_ = std::move(Worker::start("test").value());
    auto server = ControlServer::create(
        path_, worker_->loop(),
        [this](const protocol::Request& r, const ControlServer::Answer& answer) {
          if (r.command == "echo") return answer(fmt::format("[\"{}\"]", r.argument));
          if (r.command == "later") {
            return worker_->loop().post(
                [answer, text = fmt::format("[\"{}\"]", r.argument)] { answer(text); });
          }
          answer(fail("unknown command '{}'", r.command));
        });
    EXPECT_TRUE(server);
    server_ = std::move(*server);
  }
  ~ControlServerTest() override {
    worker_->loop().call([this] { server_.reset(); });
    struct stat status;
    EXPECT_NE(::stat(path_.c_str(), &status), 0) << "the socket is removed";
    ::rmdir(directory_);
  }
  // Sends bytes as they are; returns all that comes until the server hangs up.
  std::string exchange(std::string_view bytes) {
    auto socket = std::move(connect_unix(path_).value());
    EXPECT_TRUE(write_all(socket.get(), std::as_bytes(std::span(bytes))));
    ::shutdown(socket.get(), SHUT_WR);
    std::string answer;
    char chunk[4096];
    for (;;) {
      const ssize_t n = ::read(socket.get(), chunk, sizeof chunk);
      if (n <= 0) return answer;
      answer.append(chunk, static_cast<std::size_t>(n));
    }
  }
  char directory_[32] = "/tmp/vmm-control-XXXXXX";
  std::string path_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, AnswersAndRefuses) {
  EXPECT_EQ(protocol::call(path_, {"echo", "hello"}).value(), R"(["hello"])");
  const auto refused = protocol::call(path_, {"dance", ""});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), "unknown command 'dance'");
}

TEST_F(ControlServerTest, OnlyItsUserMayConnect) {
  struct stat status;
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(ControlServerTest, GarbageIsAnsweredAndTooMuchIsDropped) {
  EXPECT_NE(exchange("hello\n\n{}\n").find(R"("ok":false)"), std::string::npos);
  EXPECT_EQ(exchange(std::string(100'000, 'x')), "");
  EXPECT_EQ(exchange(R"({"command":"echo","argument":"a"})"), "") << "no end of line";
  EXPECT_EQ(protocol::call(path_, {"echo", "still here"}).value(), R"(["still here"])");
}

TEST_F(ControlServerTest, ASecondServerIsRefusedAndAStaleSocketReplaced) {
  auto second = ControlServer::create(path_, worker_->loop(), {});
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message().find("in use"), std::string::npos);
  const std::string stale = path_ + "2";
  {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto listener = std::move(UnixListener::create(stale).value());
    // A listener that dies without its destructor leaves the path behind.
    ASSERT_EQ(::link(stale.c_str(), (stale + "x").c_str()), 0);
  }
  ASSERT_EQ(::rename((stale + "x").c_str(), stale.c_str()), 0);
  worker_->loop().call([&] {
    const auto replaced = ControlServer::create(stale, worker_->loop(), {});
    EXPECT_TRUE(replaced) << replaced.error().message();
  });
}

TEST_F(ControlServerTest, AnswersOfOneClientKeepTheirOrder) {
  const auto answer = exchange(R"({"command": "later", "argument": "1"})"
                               "\n"
                               R"({"command": "echo", "argument": "2"})"
                               "\n"
                               R"({"command": "later", "argument": "3"})"
                               "\n");
  const auto first = answer.find("\"1\""), second = answer.find("\"2\""),
             third = answer.find("\"3\"");
  EXPECT_NE(first, std::string::npos) << answer;
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_NE(third, std::string::npos) << answer;
}

}  // namespace
}  // namespace vmm
