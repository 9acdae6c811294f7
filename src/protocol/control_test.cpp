#include "src/protocol/control.h"

#include <gtest/gtest.h>

namespace vmm::protocol {
namespace {

TEST(Control, RoundTrips) {
  const auto request = decode_request(encode(Request{"balloon", "5\"12M\n"}));
  ASSERT_TRUE(request);
  EXPECT_EQ(request->command, "balloon");
  EXPECT_EQ(request->argument, "5\"12M\n");
  const auto reply = decode_reply(encode(Reply{true, R"({"a":[1,2]})", ""}));
  ASSERT_TRUE(reply);
  EXPECT_TRUE(reply->ok);
  EXPECT_EQ(reply->result, R"({"a":[1,2]})");
  EXPECT_EQ(decode_reply(encode(Reply{false, "", "no"}))->error, "no");
}

TEST(Control, OneLineWhateverIsInIt) {
  const std::string line = encode(Request{"x\ny", "\xff\xfe"});
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

TEST(Control, RefusesWhatItDoesNotKnow) {
  for (const char* bad : {"", "[]", "{", "{}", R"({"command":7})", R"({"command":""})",
                          R"({"version":2,"command":"status"})"}) {
    EXPECT_FALSE(decode_request(bad)) << bad;
  }
  EXPECT_TRUE(decode_request(R"({"command":"status","more":[]})")) << "unknown fields are ignored";
  EXPECT_FALSE(decode_reply(R"({"ok":1})"));
}

}  // namespace
}  // namespace vmm::protocol
