// Fields: the one declaration of a kind of component. Each key is named once, with its type, its
// help and the member it sets; from that come the words of an option, JSON in both directions, help
// and suggestions.
//
//   spec::Fields fields_of(Disk& disk) {
//     spec::Fields fields("disk");
//     fields.add({"path", "path=PATH", "file or block device", spec::Lead::value},
//     text(disk.path)); fields.add({"queues", "queues=N", "1 to 64"}, spec::number(disk.queues, 1,
//     64)); fields.check_with([&disk] { return check(disk); }); return fields;
//   }
//   auto disk = TRY(spec::from_words<Disk>("root.img,queues=2"));   // words are read, never made
//   const Value value(spec::describe(disk));                        // {"path": ..., "queues": 2}
//   auto same = TRY(spec::from_value<Disk>(value));                 // the same disk
//
// Each key says whose it is: what the guest sees is the specification, what the host connects it to
// an attachment. describe() prints either or both; merged() puts the two together again.
//
// Keys are set in the order of their declaration, whatever their order in the text: one that gives
// others their defaults stands before them. What has its default is not printed.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/spec/value.h"

namespace vmm::spec {

// Whether a word of an option may, or must, be this key without its name.
enum class Lead : std::uint8_t {
  none,
  value,    // the first word is its value unless it begins with "key=": a path may have an '='
  instead,  // of such a value: as the first word, "key=" is this key
  bare,     // a word without '=' is its value
  kind,     // one of several, each of which says what the component is; the first word is one
};

enum class Side : std::uint8_t {
  guest,  // seen by the guest, or a rule of the machine's own: part of its specification
  host,   // an attachment: files, taps, ports, sockets, and what differs between copies
  both,   // a component that has keys of both sides
};
// Of a description.
enum class Sides : std::uint8_t { all, guest, host };

struct Key {
  std::string_view name;
  std::string_view form;  // as it is typed, "queues=N"; empty: not in the help
  std::string_view help;
  Lead lead = Lead::none;
  Side side = Side::guest;
  std::string_view also = {};       // another name that is taken
  std::string_view elsewhere = {};  // names that others have for it, separated by spaces
};

enum class Type : std::uint8_t { text, toggle, number, size, list, object };

// The same key, of what the host connects, or of both.
constexpr Key host(Key key) {
  key.side = Side::host;
  return key;
}
constexpr Key both(Key key) {
  key.side = Side::both;
  return key;
}

// How the value of a key is set and looked at. Values given to set() have the type, but for a
// number or size that cannot be read: that one comes as the text it is, and the error says what was
// expected.
struct Item {
  Type type;
  std::function<Result<void>(const Value&)> set;
  std::function<Value()> get;  // empty: there is nothing to say
  // Of a key with both sides: what one of them has to say.
  std::function<Value(Sides)> get_sides = {};
};

struct Field {
  Key key;
  Item item;
};

class Fields {
 public:
  // `what`: how messages call the component, "disk".
  explicit Fields(std::string_view what) : what_(what) {}

  void add(const Key& key, Item item) { fields_.push_back({key, std::move(item)}); }
  // Run when all keys are set.
  void check_with(std::function<Result<void>()> check) { check_ = std::move(check); }

  const std::vector<Field>& all() const { return fields_; }
  const Field* find(std::string_view name) const;

  // "root.img,ro,queues=2". Errors begin with what it is and the text.
  Result<void> read_words(std::string_view text);
  // Of one key, the text behind "key=".
  static Result<void> set_word(const Field& field, std::string_view word);
  // Errors begin with the key. `given`: takes the names of the keys that were there.
  Result<void> read(const Object& object, std::vector<std::string>* given = nullptr);
  // What differs from `defaults`, the declaration of a component of which nothing was said.
  Object describe(Fields defaults, Sides sides = Sides::all) const;

 private:
  Result<void> take_words(std::string_view text);
  struct Word;
  Result<Word> word_of(std::string_view part, bool first, std::span<const bool> set) const;
  std::string suggestion(std::string_view name) const;

  std::string_view what_;
  std::vector<Field> fields_;
  std::function<Result<void>()> check_;
};

// ---- T has fields_of(T&) beside it

template <typename T>
Result<T> from_words(std::string_view text) {
  T component;
  TRY(fields_of(component).read_words(text));
  return component;
}
template <typename T>
Result<T> from_object(const Object& object) {
  T component;
  TRY(fields_of(component).read(object));
  return component;
}
template <typename T>
Object describe(const T& component, Sides sides = Sides::all) {
  T defaults, copy = component;
  return fields_of(copy).describe(fields_of(defaults), sides);
}

// The description that both are of: objects and lists of objects have the members of both.
Object merged(Object specification, const Object& attachments);

}  // namespace vmm::spec
