#include "src/engine/runtime/channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <optional>

#include "src/engine/runtime/agent_link.h"

namespace vmm::engine {
namespace {

namespace agent = protocol::agent;

class ChannelTest : public ::testing::Test {
 protected:
  ChannelTest() : loop_(std::move(EventLoop::create().value())) {
    std::array<int, 2> pair{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    peer_ = UniqueFd(pair[1]);
    channel_.emplace(*loop_, UniqueFd(pair[0]),
                     Channel::Callbacks{.message = [this](const agent::Message&) { ++heard_; },
                                        .closed = [this] { loop_->stop(); },
                                        .writable = {}});
  }
  // Its last word, with what it was sent unread: the kernel resets the connection then.
  void says_something_and_goes() {
    const auto bytes = agent::encode(agent::Failed{.text = "no"});
    ASSERT_EQ(::send(peer_.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    peer_ = {};
  }

  std::unique_ptr<EventLoop> loop_;
  UniqueFd peer_;
  int heard_ = 0;
  std::optional<Channel> channel_;
};

TEST_F(ChannelTest, HearsTheLastWordOfAPeerThatTakesNothing) {
  while (channel_->pending() == 0) {
    channel_->send(agent::Failed{.text = std::string(60'000, 'x')});
  }
  says_something_and_goes();
  loop_->run();
  EXPECT_EQ(heard_, 1);
  EXPECT_FALSE(channel_->is_open());
}

TEST(AgentLinkTest, SaysNothingOnceItsOwnerHasLeft) {
  const auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  unsigned told = 0;
  const auto begin = [&] {
    return std::make_unique<AgentLink>(**loop, "/nowhere", agent::Header{agent::Kind::machine, {}},
                                       [&told](const Result<UniqueFd>&) { ++told; });
  };
  const auto kept = begin();
  begin().reset();
  (*loop)->post([&] { (*loop)->stop(); });
  (*loop)->run();
  EXPECT_EQ(told, 1u);
}

}  // namespace
}  // namespace vmm::engine
