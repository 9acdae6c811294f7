#include "src/spec/fields.h"

#include <gtest/gtest.h>

#include "src/spec/items.h"
#include "src/spec/json.h"

namespace vmm::spec {
namespace {

enum class Colour : std::uint8_t { none, red, green };
constexpr std::array<std::pair<std::string_view, Colour>, 2> kColours = {
    {{"red", Colour::red}, {"green", Colour::green}}};

struct Wheel {
  std::string path;
  bool spins = false;
  bool locked = true;
  std::uint16_t spokes = 8;
  std::uint64_t weight = 0;
  Colour colour = Colour::none;
  friend bool operator==(const Wheel&, const Wheel&) = default;
};

Fields fields_of(Wheel& wheel) {
  Fields fields("wheel");
  fields.add(host({"path", "path=PATH", "where it is", Lead::value}), text(wheel.path));
  fields.add({.name = "spins", .form = "spins", .help = "", .elsewhere = "turns rolls"},
             toggle(wheel.spins));
  fields.add({"locked", "locked=on|off", ""}, toggle(wheel.locked));
  fields.add({"spokes", "spokes=N", ""}, number(wheel.spokes, 1, 64));
  fields.add({"weight", "weight=SIZE", "", Lead::instead}, size(wheel.weight));
  fields.add({"colour", "colour=red|green", ""}, choice(wheel.colour, kColours));
  fields.check_with([&wheel]() -> Result<void> {
    if (wheel.path.empty()) return fail("a path is missing");
    return {};
  });
  return fields;
}

Result<Wheel> parse_wheel(std::string_view words) { return from_words<Wheel>(words); }

struct Cart {
  std::vector<Wheel> wheels;
  std::optional<Wheel> spare;
  friend bool operator==(const Cart&, const Cart&) = default;
};

Fields fields_of(Cart& cart) {
  Fields fields("cart");
  fields.add(both({"wheel", "PATH", ""}), components(cart.wheels, parse_wheel));
  fields.add(both({"spare", "PATH", ""}), component(cart.spare, parse_wheel));
  return fields;
}

template <typename T>
std::string why(const Result<T>& result) {
  return result ? "" : result.error().message();
}

Result<Cart> cart_in(const std::string& json) {
  const auto value = TRY(parse_value(json));
  return from_object<Cart>(std::get<Object>(value.data));
}

TEST(Fields, ReadsWords) {
  const auto wheel = parse_wheel("a=b,,c,spins,spokes=3,weight=2K,colour=green,locked=off");
  ASSERT_TRUE(wheel) << why(wheel);
  EXPECT_EQ(*wheel, (Wheel{"a=b,c", true, false, 3, 2048, Colour::green}));
  EXPECT_EQ(parse_wheel("path=x,path=y")->path, "y") << "the last one counts";
  EXPECT_EQ(*parse_wheel("weight=2K,path=x"), (Wheel{.path = "x", .weight = 2048}));
  EXPECT_EQ(parse_wheel("spokes=3")->path, "spokes=3");
}

TEST(Fields, RefusesWordsByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "wheel '': a path is missing"},
      {"x,spoke=1", "wheel 'x,spoke=1': unknown key 'spoke' (did you mean 'spokes'?)"},
      {"x,rolls", "wheel 'x,rolls': unknown key 'rolls' (did you mean 'spins'?)"},
      {"x,", "wheel 'x,': a word is empty"},
      {"x,spokes", "wheel 'x,spokes': 'spokes' takes a value: spokes=N"},
      {"x,spokes=", "wheel 'x,spokes=': spokes: an empty value was given"},
      {"x,spins=yes", "wheel 'x,spins=yes': spins: invalid value 'yes': expected on or off"},
      {"x,spokes=65",
       "wheel 'x,spokes=65': spokes: invalid value '65': expected a whole number from 1 to 64"},
      {"x,spokes=-1",
       "wheel 'x,spokes=-1': spokes: invalid value '-1': expected a whole number from 1 to 64"},
      {"x,colour=gren",
       "wheel 'x,colour=gren': colour: invalid value 'gren' (did you mean 'green'?): expected red "
       "or green"}};
  for (const auto& [words, message] : cases) EXPECT_EQ(why(parse_wheel(words)), message);
}

TEST(Fields, PrintsWhatDiffersFromItsDefault) {
  const Cart cart{{{"a", true, false, 3, 2048, Colour::red}, {"b"}}, Wheel{"c"}};
  const auto text = to_json(Value(describe(cart)));
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, R"({
  "wheel": [
    {
      "path": "a",
      "spins": true,
      "locked": false,
      "spokes": 3,
      "weight": 2048,
      "colour": "red"
    },
    {
      "path": "b"
    }
  ],
  "spare": {
    "path": "c"
  }
})");
  EXPECT_EQ(*cart_in(*text), cart);
  EXPECT_EQ(*to_json(Value(describe(Cart()))), "{}");
}

TEST(Fields, AComponentMayBeWordsInJson) {
  const auto cart = cart_in(R"({"wheel": "a,spokes=3", "spare": {"path": "b", "weight": "2K"}})");
  ASSERT_TRUE(cart) << why(cart);
  EXPECT_EQ(*cart, (Cart{{{"a", false, true, 3}}, Wheel{"b", false, true, 8, 2048}}));
}

TEST(Fields, DescribesEitherSide) {
  const auto text = [](const Object& object) { return shown(Value(object)); };
  const Cart cart{{{"a", true}, {"b"}}, Wheel{"c"}};
  const auto guest = describe(cart, Sides::guest), host = describe(cart, Sides::host);
  EXPECT_EQ(text(guest), R"({"wheel":[{"spins":true},{}],"spare":{}})");
  EXPECT_EQ(text(host), R"({"wheel":[{"path":"a"},{"path":"b"}],"spare":{"path":"c"}})");
  EXPECT_EQ(*from_object<Cart>(merged(guest, host)), cart);
  EXPECT_EQ(text(describe(Cart{{{}, {}}, Wheel{}}, Sides::host)), "{}") << "connected to nothing";
  EXPECT_EQ(text(merged({}, host)), text(host));
}

// What snapshots of versions 1 and 2 made of the words "12,spins,spokes=2" or "on,locked=off".
TEST(Fields, ReadsWhatWordsWereKeptAs) {
  const auto cart = cart_in(
      R"({"wheel": [{"path": 12, "spins": true, "spokes": "2"}, {"path": true, "locked": "off"}]})");
  ASSERT_TRUE(cart) << why(cart);
  EXPECT_EQ(cart->wheels, (std::vector<Wheel>{{"12", true, true, 2}, {"on", false, false}}));
}

TEST(Fields, RefusesJsonByPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"whel": []})", "unknown key 'whel' (did you mean 'wheel'?)"},
      {R"({"wheel": ["a", 7]})", "wheel[1]: invalid value 7: expected an object or a text"},
      {R"({"wheel": [{"path": "a", "spokes": 65}]})",
       "wheel[0]: spokes: invalid value '65': expected a whole number from 1 to 64"},
      {R"({"wheel": {"path": "a", "spins": "yes"}})",
       "wheel: spins: invalid value 'yes': expected true or false"},
      {R"({"spare": {"path": ["a"]}})", "spare: path: invalid value [\"a\"]: expected a text"},
      {R"({"spare": {"path": "a", "weight": []}})",
       "spare: weight: invalid value []: expected a number or a size such as 512M"},
      {R"({"spare": {}})", "spare: a path is missing"},
      {R"({"spare": null})",
       "'spare': null is not a text, a whole number, true, false, a list or "
       "an object"},
      {R"({"spare": {"path": "a", "spokes": -1}})",
       "'spare': 'spokes': -1 is not a text, a whole number, true, false, a list or an object"}};
  for (const auto& [json, message] : cases) EXPECT_EQ(why(cart_in(json)), message);
}

TEST(Json, RefusesTextsThatItCannotCarry) {
  EXPECT_EQ(why(to_json(Value(std::string("a\xff")))),
            "a path or text of the machine is not UTF-8, which its description needs");
  EXPECT_EQ(shown(Value(std::string("a\x1b[2J"))), "\"a\\u001b[2J\"");
  EXPECT_EQ(shown(Value(std::string(1000, 'x'))).size(), 200u);
}

}  // namespace
}  // namespace vmm::spec
