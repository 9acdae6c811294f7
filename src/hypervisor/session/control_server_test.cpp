#include "src/hypervisor/session/control_server.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <set>

#include "src/base/worker.h"
#include "src/hypervisor/session/jobs.h"
#include "src/protocol/control_client.h"
#include "src/protocol/control_v1.h"

namespace vmm {
namespace {

using protocol::ControlClient;

// Balloon is answered by its bytes at once, Cancel by its number a little later, and Wait when the
// test says so; there is no Pause.
class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest() {
    EXPECT_NE(::mkdtemp(directory_), nullptr);
    path_ = fmt::format("{}/control", directory_);
    worker_ = std::move(Worker::start("test").value());
    worker_->loop().call([this] {
      auto server = ControlServer::create(
          path_, worker_->loop(),
          [this](const protocol::Command& command, unsigned, const ControlServer::Answer& answer) {
            serve(command, answer);
          });
      ASSERT_TRUE(server) << server.error().message();
      server_ = std::move(*server);
    });
  }
  ~ControlServerTest() override {
    worker_->loop().call([this] { server_.reset(); });
    struct stat status;
    EXPECT_NE(::stat(path_.c_str(), &status), 0) << "the socket is removed";
    ::rmdir(directory_);
  }
  void serve(const protocol::Command& command, const ControlServer::Answer& answer) {
    if (const auto* echo = std::get_if<protocol::Balloon>(&command)) {
      return answer(fmt::format("[{}]", echo->size));
    }
    if (std::holds_alternative<protocol::Metrics>(command)) {
      return worker_->loop().post([answer] { answer(std::string("[\"later\"]")); });
    }
    if (std::holds_alternative<protocol::Events>(command)) {
      server_->listen(answer);
      return answer(std::string());
    }
    if (std::holds_alternative<protocol::Wait>(command)) return add_waiting(waiting_, answer);
    if (std::holds_alternative<protocol::Status>(command)) {
      return answer(fmt::format("\"{}\"", std::string(60'000, 'x')));
    }
    answer(fail("not '{}'", protocol::name_of(command)));
  }
  ControlClient connect() { return std::move(ControlClient::connect(path_).value()); }
  void publish(const protocol::Event& event) {
    worker_->loop().call([&] { server_->publish(event); });
  }
  std::size_t waiting() {
    std::size_t size = 0;
    worker_->loop().call([&] { size = waiting_.size(); });
    return size;
  }
  void answer_waiting(const std::string& result = "[]") {
    worker_->loop().call([&] {
      for (const auto& answer : std::exchange(waiting_, {})) answer(result);
    });
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
  void expect_alive() { EXPECT_EQ(connect().call(protocol::Balloon{"7"}).value(), "[7]"); }

  char directory_[32] = "/tmp/vmm-control-XXXXXX";
  std::string path_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<ControlServer> server_;
  std::vector<ControlServer::Answer> waiting_;
};

TEST_F(ControlServerTest, AnswersAndRefuses) {
  EXPECT_EQ(protocol::call(path_, {"balloon", "10", {}}).value(), "[10]");
  const auto refused = protocol::call(path_, {"pause", "", {}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), "not 'pause'");
  EXPECT_EQ(
      exchange("{\"version\":2,\"id\":5,\"command\":\"balloon\",\"arguments\":{\"size\":\"3\"}}\n"),
      "{\"id\":5,\"ok\":true,\"result\":[3]}\n");
}

TEST_F(ControlServerTest, OfVersion1EachByteIsAsItWas) {
  EXPECT_EQ(exchange("{\"version\":1,\"command\":\"balloon\",\"argument\":\"20\"}\n"
                     "{\"command\":\"pause\"}\n{\"command\":\"dance\"}\n"),
            "{\"ok\":true,\"result\":[20]}\n{\"error\":\"not 'pause'\",\"ok\":false}\n"
            "{\"error\":\"unknown command 'dance'\",\"ok\":false}\n");
}

TEST_F(ControlServerTest, SaysWhichVersionsItSpeaks) {
  const auto versions = connect().call<protocol::VersionResult>(protocol::Version{});
  ASSERT_TRUE(versions) << versions.error().message();
  EXPECT_EQ(versions->versions, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(versions->program, VMM_VERSION);
}

TEST_F(ControlServerTest, OnlyItsUserMayConnect) {
  struct stat status;
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(ControlServerTest, GarbageIsAnsweredAndTooMuchIsDropped) {
  EXPECT_NE(exchange("hello\n\n{}\n").find(R"("ok":false)"), std::string::npos);
  EXPECT_EQ(exchange(std::string(100'000, 'x')), "");
  EXPECT_EQ(exchange(R"({"command":"balloon","argument":"1"})"), "") << "no end of line";
  expect_alive();
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

TEST_F(ControlServerTest, AnswersOfVersion1KeepTheirOrder) {
  EXPECT_EQ(exchange("{\"command\":\"metrics\"}\n{\"command\":\"balloon\",\"argument\":\"2\"}\n"
                     "{\"command\":\"metrics\"}\n"),
            "{\"ok\":true,\"result\":[\"later\"]}\n{\"ok\":true,\"result\":[2]}\n"
            "{\"ok\":true,\"result\":[\"later\"]}\n");
}

TEST_F(ControlServerTest, OfVersion2ALaterOneIsAnsweredBeforeOneThatTakesLong) {
  auto client = connect();
  const auto slow = client.ask(protocol::Wait{}).value();
  for (unsigned i = 0; i < 3; ++i) {
    EXPECT_EQ(client.call(protocol::Balloon{std::to_string(i)}).value(), fmt::format("[{}]", i));
  }
  answer_waiting();
  EXPECT_EQ(client.answer(slow).value(), "[]");
}

TEST_F(ControlServerTest, EachAnswerHasItsRequestsId) {
  auto client = connect();
  std::set<std::uint64_t> ids;
  for (int i = 0; i < 20; ++i) ids.insert(client.ask(protocol::Metrics{}).value());
  for (int i = 0; i < 20; ++i) {
    const auto reply = protocol::decode_reply(client.read_line().value());
    ASSERT_TRUE(reply);
    EXPECT_EQ(ids.erase(reply->id.value()), 1u);
  }
  EXPECT_TRUE(ids.empty());
}

// ---- what clients can make grow

TEST_F(ControlServerTest, SoManyRequestsAreInFlightAtMost) {
  auto client = connect();
  constexpr std::size_t kFlood = 1000;
  for (std::size_t i = 0; i < kFlood; ++i) ASSERT_TRUE(client.ask(protocol::Wait{}));
  std::size_t refused = 0;
  for (std::size_t i = 0; i < kFlood - ControlServer::kMaxInFlight; ++i) {
    const auto reply = protocol::decode_reply(client.read_line().value());
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->error, "65 requests of this connection are in flight: expected at most 64");
    ++refused;
  }
  EXPECT_EQ(waiting(), ControlServer::kMaxInFlight);
  EXPECT_EQ(refused, kFlood - ControlServer::kMaxInFlight);
  answer_waiting();
  for (std::size_t i = 0; i < ControlServer::kMaxInFlight; ++i) ASSERT_TRUE(client.read_line());
  EXPECT_EQ(client.call(protocol::Balloon{"1"}).value(), "[1]") << "there is room again";
}

// Asks for 60 KB again and again, and reads nothing: its requests wait, nobody else.
TEST_F(ControlServerTest, WhoReadsNoAnswersIsReadFromNoMore) {
  auto client = connect();
  const std::string request = protocol::encode_request(1, protocol::Status{});
  std::string many;
  for (int i = 0; i < 100; ++i) many += request;
  std::size_t sent = 0;
  for (int tries = 0; tries < 200; ++tries) {
    const ssize_t n = ::send(client.fd(), many.data(), many.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<std::size_t>(n);
    expect_alive();
  }
  EXPECT_LT(sent, 2u << 20) << "what it sends waits in its socket";
  for (int i = 0; i < 100; ++i) {
    const auto reply = protocol::decode_reply(client.read_line().value());
    ASSERT_TRUE(reply && reply->ok) << i;
  }
}

// By answers to what it asked before it was slow: 64 of 60 KB, which are not left out as events
// are.
TEST_F(ControlServerTest, WhoLeavesAMebibyteUnreadIsDropped) {
  auto client = connect(), other = connect();
  ASSERT_TRUE(other.ask(protocol::Wait{}));
  ASSERT_TRUE(other.call(protocol::Balloon{"1"})) << "by then it waits";
  for (std::size_t i = 0; i < ControlServer::kMaxInFlight; ++i) {
    ASSERT_TRUE(client.ask(protocol::Wait{}));
  }
  ASSERT_TRUE(client.call(protocol::Version{}).error().message().contains("in flight"))
      << "all have come";
  const std::string large = fmt::format("\"{}\"", std::string(60'000, 'x'));
  answer_waiting(large);
  // What the socket held of them, and no more.
  std::size_t answers = 0;
  while (answers < ControlServer::kMaxInFlight && client.read_line()) ++answers;
  EXPECT_GT(answers, 0u);
  EXPECT_LT(answers, ControlServer::kMaxInFlight);
  EXPECT_TRUE(other.read_line()) << "others get theirs";
  expect_alive();
}

TEST_F(ControlServerTest, WhoReadsNoEventsIsToldHowManyItMissed) {
  auto slow = connect(), quick = connect();
  ASSERT_TRUE(slow.call(protocol::Events{}));
  ASSERT_TRUE(quick.call(protocol::Events{}));
  constexpr std::uint64_t kFlood = 20'000;
  for (std::uint64_t i = 0; i < kFlood; ++i) {
    publish(protocol::Panic{std::string(100, 'x')});
    ASSERT_NE(quick.next_event().value().find("panic"), std::string::npos);
  }
  publish(protocol::Ended{.code = 3, .reason = "over"});
  std::uint64_t came = 0, missed = 0;
  for (;;) {
    const auto event = protocol::decode_event(slow.next_event().value());
    ASSERT_TRUE(event);
    if (const auto* gap = std::get_if<protocol::Missed>(&*event)) missed += gap->count;
    if (std::holds_alternative<protocol::Panic>(*event)) ++came;
    if (std::holds_alternative<protocol::Ended>(*event)) break;
  }
  EXPECT_EQ(came + missed, kFlood);
  EXPECT_GT(missed, kFlood / 2);
  // It is told of the gap before what follows, and not again.
  publish(protocol::Paused{});
  EXPECT_TRUE(std::holds_alternative<protocol::Paused>(
      protocol::decode_event(slow.next_event().value()).value()));
}

TEST_F(ControlServerTest, IdleClientsKeepNobodyOut) {
  auto active = std::move(connect_unix(path_).value());
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 100; ++i) {
    idle.push_back(std::move(connect_unix(path_).value()));
    // The one that asks something now and then stays.
    const std::string_view request = R"({"command": "balloon", "argument": "1"})"
                                     "\n";
    ASSERT_TRUE(write_all(active.get(), std::as_bytes(std::span(request))));
    char answer[256];
    ASSERT_GT(::read(active.get(), answer, sizeof answer), 0) << i;
  }
  expect_alive();
  char byte;
  EXPECT_EQ(::read(idle.front().get(), &byte, 1), 0) << "the first one had to go";
}

// They come while the loop is at something else, and are more than it has places for.
TEST_F(ControlServerTest, ABurstIsServedWhole) {
  std::vector<ControlClient> before;
  for (int i = 0; i < 32; ++i) {
    before.push_back(connect());
    ASSERT_TRUE(before.back().ask(protocol::Wait{}));
  }
  while (waiting() < before.size()) ::sched_yield();
  std::vector<ControlClient> burst;
  worker_->loop().call([&] {
    for (int i = 0; i < 60; ++i) {  // the backlog has 64
      burst.push_back(connect());
      ASSERT_TRUE(burst.back().ask(protocol::Balloon{"5"}));
    }
  });
  for (auto& client : burst) EXPECT_EQ(client.read_line().value_or("dropped").back(), '}');
}

// Neither by half a line, nor by a request that has no answer.
TEST_F(ControlServerTest, HangingClientsKeepNobodyOut) {
  auto listener = connect();
  ASSERT_TRUE(listener.call(protocol::Events{}));
  std::vector<ControlClient> hanging;
  for (int i = 0; i < 100; ++i) {
    hanging.push_back(connect());
    if (i % 2 == 0) {
      ASSERT_TRUE(hanging.back().send("{\"version\":2,"));
    } else {
      ASSERT_TRUE(hanging.back().ask(protocol::Wait{}));
    }
    expect_alive();
  }
  // Those that have nothing in flight go before who listens.
  publish(protocol::Paused{});
  EXPECT_NE(listener.next_event().value().find("paused"), std::string::npos);
  auto late = connect();
  ASSERT_TRUE(late.call(protocol::Events{}));
  publish(protocol::Resumed{});
  EXPECT_NE(late.next_event().value().find("resumed"), std::string::npos);
}

TEST_F(ControlServerTest, WhoWentAwayIsNotAnswered) {
  for (int i = 0; i < 200; ++i) {
    auto client = connect();
    ASSERT_TRUE(client.ask(protocol::Wait{}));
    ASSERT_TRUE(client.call(protocol::Balloon{"1"}));
  }
  EXPECT_LT(waiting(), ControlServer::kMaxClients) << "they are forgotten";
  answer_waiting();
  expect_alive();
}

// A request that came whole is served, though its client is gone by then.
TEST_F(ControlServerTest, AskedAndGone) {
  {
    auto client = connect();
    ASSERT_TRUE(client.ask(protocol::Wait{}));
  }
  for (int i = 0; i < 1000 && waiting() == 0; ++i) ::usleep(1000);
  EXPECT_EQ(waiting(), 1u);
  answer_waiting();
}

TEST_F(ControlServerTest, ThousandsOfRequestsBesideGarbage) {
  auto client = connect();
  auto garbage = connect();
  const auto begin = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < 5000; ++i) {
    ASSERT_EQ(client.call(protocol::Balloon{std::to_string(i)}).value(), fmt::format("[{}]", i));
    if (i % 10 == 0) {
      ASSERT_TRUE(garbage.send("{\"no\": [\n"));
      ASSERT_TRUE(garbage.read_line());
    }
  }
  // Nothing hangs; a sanitizer on a busy machine may be slow.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

}  // namespace
}  // namespace vmm
