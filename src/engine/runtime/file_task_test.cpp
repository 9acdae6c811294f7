// Work with the files of a machine whose agent stands still: the test is the agent.
#include "src/engine/runtime/file_task.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <list>
#include <thread>

#include "src/base/unix_socket.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

using namespace std::chrono_literals;
namespace agent = protocol::agent;
using protocol::files::End;
using protocol::files::Entry;

constexpr auto kPatience = 1000ms;
constexpr const char* kGivenUp = "the machine's agent has not gone on with the files for 1 s";

void say(int connection, const std::string& bytes) {
  (void)::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

class FileTaskTest : public ::testing::Test {
 protected:
  FileTaskTest() : listener_(UnixListener::create(folder_.path() + "/vsock").value()) {}

  struct Streams {
    int control, output, error;
  };
  // Answers one connection's greeting and returns it. Blocking.
  UniqueFd accept(agent::Kind kind) {
    pollfd wait{listener_.fd(), POLLIN, 0};
    (void)::poll(&wait, 1, 30'000);
    UniqueFd connection(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection) return connection;
    std::string line;
    for (char byte = 0; byte != '\n' && ::recv(connection.get(), &byte, 1, 0) == 1;) line += byte;
    agent::HeaderBytes header{};
    EXPECT_EQ(::recv(connection.get(), header.data(), header.size(), MSG_WAITALL),
              static_cast<ssize_t>(header.size()));
    say(connection.get(), "OK 1\n");
    say(connection.get(), {reinterpret_cast<const char*>(header.data()), header.size()});
    EXPECT_EQ(agent::decode_header(header)->kind, kind);
    return connection;
  }
  // What an agent does with a task: it has started, and `work` gets its output.
  void serve(bool has_input, const std::function<void(Streams)>& work) {
    agent_ = std::jthread([this, has_input, work] {
      connections_.push_back(accept(agent::Kind::control));
      const int control = connections_.back().get();
      say(control, agent::encode(agent::Started{1}));
      connections_.push_back(accept(agent::Kind::standard_output));
      const int output = connections_.back().get();
      connections_.push_back(accept(agent::Kind::standard_error));
      const int error = connections_.back().get();
      if (has_input) connections_.push_back(accept(agent::Kind::standard_input));
      work({control, output, error});
    });
  }

  TestDirectory folder_;
  UnixListener listener_;
  std::list<UniqueFd> connections_;
  std::jthread agent_;
};

TEST_F(FileTaskTest, GivesUpAMachineThatSaysNothing) {
  serve(false, [](Streams) {});
  const auto done = read_files(
      folder_.path(), {}, [](const agent::Message&) { return Result<void>(); }, kPatience);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message(), kGivenUp);
}

TEST_F(FileTaskTest, GivesUpAMachineThatTakesNothing) {
  serve(true, [](Streams) {});
  agent::FileTask task;
  task.kind = agent::FileTask::Kind::unpack;
  const auto done = write_files(
      folder_.path(), task,
      [](const files::Send& send) -> Result<void> {
        for (;;) TRY(send(std::string(64u << 10, 'x')));
      },
      kPatience);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message(), kGivenUp);
}

TEST_F(FileTaskTest, WaitsForAMachineThatIsSlow) {
  constexpr int kEntries = 6;
  serve(false, [](const Streams& to) {
    for (int i = 0; i < kEntries; ++i) {
      std::this_thread::sleep_for(kPatience / 4);  // longer in all than the patience
      say(to.output, agent::encode(Entry{}));
    }
    say(to.output, agent::encode(End{}));
    for (const int stream : {to.output, to.error}) (void)::shutdown(stream, SHUT_WR);
    say(to.control, agent::encode(agent::Exited{}));
  });
  int heard = 0;
  const auto done = read_files(
      folder_.path(), {},
      [&](const agent::Message&) {
        ++heard;
        return Result<void>();
      },
      kPatience);
  ASSERT_TRUE(done) << done.error().message();
  EXPECT_EQ(heard, kEntries);
}

}  // namespace
}  // namespace vmm::engine
