#include "src/spec/fields.h"

#include <algorithm>
#include <charconv>
#include <memory>

#include "src/base/text.h"
#include "src/spec/items.h"

namespace vmm::spec {
namespace {

bool is_called(const Key& key, std::string_view name) {
  return key.name == name || (!key.also.empty() && key.also == name);
}

// "a, b or c".
std::string one_of(const std::vector<std::string_view>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += names[i];
  }
  return text;
}

// What is no number stays a text: whoever sets it knows what was expected.
Value number_in(std::string_view word) {
  std::uint64_t number = 0;
  const auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (code == std::errc{} && end == word.data() + word.size()) return Value(number);
  return Value(std::string(word));
}

Result<Value> to_typed(Type type, std::string_view word) {
  switch (type) {
    case Type::toggle:
      if (word == "on") return Value(true);
      if (word == "off") return Value(false);
      return fail("invalid value '{}': expected on or off", word);
    case Type::number:
      return number_in(word);
    case Type::size:
      return Value(TRY(parse_size(word)));
    case Type::text:
    case Type::list:
    case Type::object:
      break;
  }
  return Value(std::string(word));
}

// Snapshots of versions 1 and 2 have the words of options: "12" was kept as a number, "on" as
// true, whatever the key's type.
Result<Value> to_typed(Type type, const Value& value) {
  const auto* word = value.as<std::string>();
  const auto* on = value.as<bool>();
  if (type == Type::toggle) {
    if (on != nullptr) return value;
    if (word != nullptr && (*word == "on" || *word == "off")) return Value(*word == "on");
    return invalid(value, "true or false");
  }
  if (type == Type::text) {
    if (word != nullptr) return value;
    if (on != nullptr) return Value(std::string(*on ? "on" : "off"));
    if (const auto* number = value.as<std::uint64_t>()) return Value(std::to_string(*number));
    return invalid(value, "a text");
  }
  return word != nullptr ? to_typed(type, *word) : Result<Value>(value);
}

Result<void> set_value(const Field& field, const Value& value) {
  const auto* list = value.as<List>();
  if (field.item.type != Type::list || list == nullptr) {
    const auto typed = to_typed(field.item.type, value);
    if (!typed) return fail("{}: {}", field.key.name, typed.error().message());
    if (const auto set = field.item.set(*typed); !set) {
      return fail("{}: {}", field.key.name, set.error().message());
    }
    return {};
  }
  for (std::size_t i = 0; i < list->size(); ++i) {
    if (const auto set = field.item.set((*list)[i]); !set) {
      return fail("{}[{}]: {}", field.key.name, i, set.error().message());
    }
  }
  return {};
}

}  // namespace

std::unexpected<Error> not_among(std::string_view text,
                                 const std::vector<std::string_view>& names) {
  return fail("invalid value '{}'{}: expected {}", text, did_you_mean(text, names), one_of(names));
}

struct Fields::Word {
  std::size_t field;
  std::string value;
};

const Field* Fields::find(std::string_view name) const {
  const auto found = std::ranges::find_if(
      fields_, [name](const Field& field) { return is_called(field.key, name); });
  return found == fields_.end() ? nullptr : &*found;
}

std::string Fields::suggestion(std::string_view name) const {
  std::vector<std::string_view> names;
  for (const auto& [key, item] : fields_) {
    names.push_back(key.name);
    const auto others = split(key.elsewhere, ' ');
    if (!name.empty() && std::ranges::find(others, name) != others.end()) {
      return fmt::format(" (did you mean '{}'?)", key.name);
    }
  }
  return did_you_mean(name, names);
}

Result<Fields::Word> Fields::word_of(std::string_view part, bool first,
                                     std::span<const bool> set) const {
  const auto equals = part.find('=');
  const auto name = part.substr(0, equals);
  const auto value =
      equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
  const auto* field = find(name);
  std::vector<std::string_view> kinds, kind_names;
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    const auto& key = fields_[i].key;
    const bool bare = key.lead == Lead::bare && field == nullptr && !set[i] &&
                      equals == std::string_view::npos && !part.empty();
    const bool instead = field != nullptr && field->key.lead == Lead::instead;
    if (bare || (key.lead == Lead::value && first && !instead && field != &fields_[i])) {
      return Word{i, std::string(part)};
    }
    if (key.lead != Lead::kind) continue;
    kinds.push_back(key.form.empty() ? key.name : key.form);
    kind_names.push_back(key.name);
  }
  const bool is_kind = field != nullptr && field->key.lead == Lead::kind;
  if (first && !kinds.empty() && !is_kind) {
    if (part.empty()) return fail("a kind is missing: expected {}", one_of(kinds));
    return fail("unknown {} kind '{}'{}: expected {}", what_, name, did_you_mean(name, kind_names),
                one_of(kinds));
  }
  if (!first && is_kind) {
    return fail("'{}' says the kind of a {}: it is the first word, and the only one of its sort",
                name, what_);
  }
  if (part.empty()) return fail("a word is empty");
  if (field == nullptr) return fail("unknown key '{}'{}", name, suggestion(name));
  if (equals == std::string_view::npos && field->item.type != Type::toggle) {
    return fail("'{}' takes a value: {}", name, field->key.form);
  }
  if (equals != std::string_view::npos && value.empty()) {
    return fail("{}: an empty value was given", name);
  }
  return Word{static_cast<std::size_t>(field - fields_.data()),
              std::string(equals == std::string_view::npos ? "on" : value)};
}

Result<void> Fields::take_words(std::string_view text) {
  std::vector<Word> words;
  const auto set = std::make_unique<bool[]>(fields_.size());
  for (const auto& part : split_words(text)) {
    words.push_back(TRY(word_of(part, words.empty(), {set.get(), fields_.size()})));
    set[words.back().field] = true;
  }
  // In the order of the declaration; those of one field as they came.
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    for (const auto& word : words) {
      if (word.field != i) continue;
      if (const auto done = set_word(fields_[i], word.value); !done) {
        return fail("{}: {}", fields_[i].key.name, done.error().message());
      }
    }
  }
  return check_ ? check_() : Result<void>();
}

Result<void> Fields::read_words(std::string_view text) {
  const auto taken = take_words(text);
  if (!taken) return fail("{} '{}': {}", what_, text, taken.error().message());
  return {};
}

Result<void> Fields::set_word(const Field& field, std::string_view word) {
  return field.item.set(TRY(to_typed(field.item.type, word)));
}

Result<void> Fields::read(const Object& object, std::vector<std::string>* given) {
  for (const auto& member : object) {
    if (find(member.key) != nullptr) continue;
    return fail("unknown key '{}'{}", member.key, suggestion(member.key));
  }
  for (const auto& field : fields_) {
    for (const auto& member : object) {
      if (!is_called(field.key, member.key)) continue;
      TRY(set_value(field, member.value));
      if (given != nullptr) given->emplace_back(field.key.name);
    }
  }
  return check_ ? check_() : Result<void>();
}

Object Fields::describe(Fields defaults, Sides sides) const {
  Object object;
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    const auto& [key, item] = fields_[i];
    const auto other = sides == Sides::guest ? Side::host : Side::guest;
    if (sides != Sides::all && key.side == other) continue;
    auto value = key.side == Side::both ? item.get_sides(sides) : item.get();
    if (value.empty() || value == defaults.fields_[i].item.get()) continue;
    // What one key says may be the default of another. A value that was set can be set again.
    (void)set_value(defaults.fields_[i], value);
    object.push_back({std::string(fields_[i].key.name), std::move(value)});
  }
  return object;
}

namespace {

Value merged(const Value& one, const Value& other) {
  if (const auto *a = one.as<Object>(), *b = other.as<Object>(); a && b) {
    return Value(merged(*a, *b));
  }
  const auto *a = one.as<List>(), *b = other.as<List>();
  if (a == nullptr || b == nullptr) return other;
  List list = *a;
  for (std::size_t i = 0; i < b->size(); ++i) {
    if (i < list.size()) {
      list[i] = merged(list[i], (*b)[i]);
    } else {
      list.push_back((*b)[i]);
    }
  }
  return Value(std::move(list));
}

}  // namespace

Object merged(Object specification, const Object& attachments) {
  for (const auto& member : attachments) {
    const auto found = std::ranges::find(specification, member.key, &Member::key);
    if (found == specification.end()) {
      specification.push_back(member);
    } else {
      found->value = merged(found->value, member.value);
    }
  }
  return specification;
}

}  // namespace vmm::spec
