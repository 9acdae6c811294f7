#include "src/base/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>

namespace vmm {
namespace {

std::string refusal(std::string_view text) {
  const auto root = parse_json(text);
  return root ? "" : root.error().message();
}

std::string nested(std::size_t depth) {
  std::string text;
  for (std::size_t i = 0; i < depth; ++i) text += i % 2 == 0 ? "[" : "{\"a\":";
  text += "1";
  for (std::size_t i = depth; i-- > 0;) text += i % 2 == 0 ? "]" : "}";
  return text;
}

TEST(Json, ReadsWhatIsValid) {
  const auto root = parse_json(R"({"b": [1, -2, 3.5, true, null, "x\u00e9"], "a": {}})");
  ASSERT_TRUE(root) << root.error().message();
  EXPECT_EQ((*root)["b"].size(), 6u);
  const auto ordered = parse_ordered_json(R"({"b": 1, "a": 2})");
  ASSERT_TRUE(ordered);
  EXPECT_EQ(ordered->dump(), R"({"b":1,"a":2})");
  EXPECT_TRUE(parse_json("{} // why", JsonComments::ignored));
}

TEST(Json, RefusesWhatIsNot) {
  for (const std::string text :
       {"", "{", "[1,]", "{} {}", "{} // why", "\"\xff\"", "1e999", "nul"}) {
    EXPECT_NE(refusal(text), "") << text;
  }
  EXPECT_EQ(refusal("{x"),
            "parse error at line 1, column 2: syntax error while parsing object key - invalid "
            "literal; last read: '{x'; expected string literal");
  EXPECT_LE(refusal("\"" + std::string(1u << 20, 'x')).size(), 200u);
}

TEST(Json, HasADepth) {
  EXPECT_EQ(refusal(nested(kMaxJsonDepth)), "");
  EXPECT_EQ(refusal(nested(kMaxJsonDepth + 1)), "nested more than 32 deep");
  EXPECT_EQ(refusal(std::string(100'000, '[')), "nested more than 32 deep");
  EXPECT_FALSE(parse_ordered_json(std::string(10u << 20, '[')));
}

TEST(Json, HasNoNul) {
  EXPECT_EQ(refusal(R"(["a\u0000b"])"), "a text with a NUL in it");
  EXPECT_EQ(refusal(R"({"a\u0000b": 1})"), "a text with a NUL in it");
}

TEST(Json, HasObjectsOfFewKeys) {
  const auto object = [](std::size_t keys) {
    std::string text = "{\"k\":1";
    for (std::size_t i = 1; i < keys; ++i) text += ",\"" + std::to_string(i) + "\":1";
    return text + "}";
  };
  EXPECT_EQ(refusal(object(kMaxJsonKeys)), "");
  EXPECT_EQ(refusal(object(200'000)), "an object of more than 4096 keys");
  EXPECT_EQ(refusal("[" + object(4000) + "," + object(4000) + "]"), "");
}

TEST(JsonText, ValuesByName) {
  const NamedValues guest = {{"free_memory", std::uint64_t{18446744073709551615u}}};
  const NamedValues values = {{"reads", std::uint64_t{3}},
                              {"link_up", true},
                              {"pause_ms", 1.5},
                              {"path", std::string("/a \"b\"")},
                              {"guest", guest},
                              {"none", NamedValues()},
                              {"disks", NamedValuesList{{{"read_only", false}}, {}}}};
  EXPECT_EQ(to_json_text(values),
            R"({"disks":[{"read_only":false},{}],"guest":{"free_memory":18446744073709551615},)"
            R"("link_up":true,"none":{},"path":"/a \"b\"","pause_ms":1.5,"reads":3})");
  EXPECT_EQ(to_json_text(NamedValuesList{{{"pid", std::uint64_t{7}}}}, 2),
            "[\n  {\n    \"pid\": 7\n  }\n]");
  EXPECT_EQ(to_json_text(NamedValuesList()), "[]");
}

TEST(JsonText, WhatIsNotUtf8IsReplaced) {
  EXPECT_EQ(to_json_text(NamedValues{{"path", std::string("a\xff")}}),
            "{\"path\":\"a\xef\xbf\xbd\"}");
}

}  // namespace
}  // namespace vmm
