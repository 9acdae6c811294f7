#include "src/hypervisor/session/observer.h"

#include <gtest/gtest.h>

namespace vmm {
namespace {

std::string net(bool up) { return fmt::format(R"({{"devices":{{"net0":{{"link_up":{}}}}}}})", up); }

std::string balloon(unsigned actual, unsigned available) {
  return fmt::format(R"({{"devices":{{"balloon":{{"target_bytes":7,"actual_bytes":{},)"
                     R"("guest":{{"available_memory":{}}}}}}}}})",
                     actual, available);
}

TEST(Observer, TellsWhenANetworkGoesAndComesBack) {
  Observer observer;
  EXPECT_TRUE(observer.look(net(true)).empty()) << "as it was";
  auto events = observer.look(net(false));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(std::get<protocol::NetworkLost>(events[0]).device, "net0");
  EXPECT_TRUE(observer.look(net(false)).empty()) << "once";
  events = observer.look(net(true));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(std::get<protocol::NetworkBack>(events[0]).device, "net0");
}

TEST(Observer, TellsOfTheGuestsMemoryWhenItChangedByMuch) {
  Observer observer;
  auto events = observer.look(balloon(0, 100u << 20));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(std::get<protocol::GuestMemory>(events[0]).target_bytes, 7u);
  EXPECT_EQ(std::get<protocol::GuestMemory>(events[0]).available_bytes, 100u << 20);
  EXPECT_TRUE(observer.look(balloon(0, 110u << 20)).empty());
  EXPECT_EQ(observer.look(balloon(0, 120u << 20)).size(), 1u);
  EXPECT_EQ(observer.look(balloon(4096, 120u << 20)).size(), 1u);
}

TEST(Observer, TakesAnyText) {
  Observer observer;
  for (const auto* text : {"", "[]", "{}", R"({"devices":7})", R"({"devices":{"a":1}})",
                           R"({"devices":{"a":{"link_up":1,"actual_bytes":"x"}}})"}) {
    for (const auto& event : observer.look(text)) {
      EXPECT_TRUE(std::holds_alternative<protocol::GuestMemory>(event)) << text;
    }
  }
}

}  // namespace
}  // namespace vmm
