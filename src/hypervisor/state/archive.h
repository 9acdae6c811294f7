// The one serializer of saved state. A state is a plain structure that declares its fields once,
// for both directions:
//
//   struct RtcState {
//     static constexpr std::string_view kKind = "rtc";
//     static constexpr std::uint32_t kVersion = 1;
//     std::int64_t offset = 0;
//     std::vector<std::byte> memory;
//     template <typename Archive>
//     void fields(Archive& archive) {
//       archive(1, offset);
//       archive(2, memory);
//     }
//   };
//   const auto bytes = state::encode(rtc);
//   const auto back = TRY(state::decode<RtcState>(bytes));
//
// A field is its number (16 bit), a length (32 bit) and the value, all little endian; an aggregate
// is the sequence of its fields. Numbers are never used again. A field may be added: what an older
// snapshot lacks keeps its default. A field that this program does not know is an error, as its
// meaning would be lost; so is a value of another size. Rules: snapshot/FORMAT.md.
//
// A long list is flat(): its elements one behind the other, as they are in memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "src/base/result.h"

namespace vmm::state {

// What a reader takes, and so what is saved (encode_readable()): elements of a list of aggregates,
// fields of one aggregate, bytes of a state and of all states together.
inline constexpr std::size_t kMaxElements = 1u << 20;
inline constexpr std::size_t kMaxFields = 1024;
inline constexpr std::size_t kMaxBytes = std::size_t{256} << 20;

template <typename T>
concept Scalar = std::is_integral_v<T> || std::is_enum_v<T>;

// The kernel's own structures, whose layout is its promise: kept as they are, by size.
template <typename T>
struct Raw {
  T& value;
};
template <typename T>
Raw<T> raw(T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {value};
}

// A list of structures of integers without padding. An empty one is left out, so that an older
// program reads what does not need it.
template <typename T>
struct Flat {
  std::vector<T>& values;
};
template <typename T>
Flat<T> flat(std::vector<T>& values) {
  static_assert(std::has_unique_object_representations_v<T> && std::is_trivially_copyable_v<T>);
  return {values};
}

// A list that has another field by now: read, but written empty.
template <typename T>
struct Former {
  std::vector<T>& values;
};
template <typename T>
Former<T> former(std::vector<T>& values) {
  return {values};
}

class Encoder {
 public:
  template <typename T>
  void operator()(std::uint16_t number, Flat<T> list) {
    if (!list.values.empty()) (*this)(number, std::as_bytes(std::span(list.values)));
  }
  template <typename T>
  void operator()(std::uint16_t number, Former<T>) {
    (*this)(number, std::span<const std::byte>());
  }
  template <typename T>
  void operator()(std::uint16_t number, const T& value) {
    put_scalar(number);
    const std::size_t length_at = bytes_.size();
    put_scalar(std::uint32_t{0});
    put(value);
    const auto length =
        static_cast<std::uint32_t>(bytes_.size() - length_at - sizeof(std::uint32_t));
    std::memcpy(bytes_.data() + length_at, &length, sizeof length);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), from, from + size);
  }
  template <Scalar T>
  void put_scalar(T value) {
    append(&value, sizeof value);
  }
  template <Scalar T>
  void put(const T& value) {
    put_scalar(value);
  }
  void put(const std::string& value) { append(value.data(), value.size()); }
  template <typename T>
  void put(const Raw<T>& value) {
    append(&value.value, sizeof(T));
  }
  template <typename T, std::size_t N>
  void put(const std::array<T, N>& values) {
    put_elements(std::span<const T>(values));
  }
  template <typename T>
  void put(const std::vector<T>& values) {
    put_elements(std::span<const T>(values));
  }
  void put(std::span<const std::byte> bytes) { put_elements(bytes); }
  template <typename T>
  void put_elements(std::span<const T> values) {
    if constexpr (Scalar<T>) {
      append(values.data(), values.size_bytes());
    } else {
      // Each element is a field of the number 1.
      for (const auto& value : values) (*this)(1, value);
    }
  }
  template <typename T>
    requires requires(T& t, Encoder& e) { t.fields(e); }
  void put(const T& value) {
    const_cast<T&>(value).fields(*this);  // the one declaration serves both directions
  }

  std::vector<std::byte> bytes_;
};

// Reads one aggregate. Fields may come in any order.
class Decoder {
 public:
  static Result<Decoder> open(std::span<const std::byte> bytes, std::size_t most = kMaxFields) {
    Decoder decoder;
    while (!bytes.empty()) {
      if (decoder.fields_.size() == most) return fail("more than {} fields", most);
      constexpr std::size_t kHeader = sizeof(std::uint16_t) + sizeof(std::uint32_t);
      if (bytes.size() < kHeader) return fail("a field is cut off");
      std::uint16_t number = 0;
      std::uint32_t length = 0;
      std::memcpy(&number, bytes.data(), sizeof number);
      std::memcpy(&length, bytes.data() + sizeof number, sizeof length);
      bytes = bytes.subspan(kHeader);
      if (length > bytes.size()) return fail("field {} is cut off", number);
      decoder.fields_.push_back({number, bytes.first(length), false});
      bytes = bytes.subspan(length);
    }
    return decoder;
  }

  template <typename T>
  void operator()(std::uint16_t number, T& value) {
    read(number, value);
  }
  template <typename T>
  void operator()(std::uint16_t number, Raw<T> value) {
    read(number, value);
  }
  template <typename T>
  void operator()(std::uint16_t number, Flat<T> value) {
    read(number, value);
  }
  template <typename T>
  void operator()(std::uint16_t number, Former<T> value) {
    read(number, value.values);
  }

  // After fields(): the first error, or a field that nobody asked for.
  Result<void> finish() const {
    if (error_) return fail("{}", *error_);
    for (const auto& field : fields_) {
      if (!field.taken) return fail("field {} is not known to this program", field.number);
    }
    return {};
  }

 private:
  struct Field {
    std::uint16_t number;
    std::span<const std::byte> bytes;
    bool taken;
  };

  template <typename T>
  void read(std::uint16_t number, T& value) {
    bool found = false;
    for (auto& field : fields_) {
      if (field.number != number) continue;
      if (found) {
        note(fail("field {} is there twice", number));
        return;
      }
      found = field.taken = true;
      const auto result = get(field.bytes, value);
      if (!result) note(fail("field {}: {}", number, result.error().message()));
    }
  }
  void note(const std::unexpected<Error>& error) {
    if (!error_) error_ = error.error().message();
  }

  template <Scalar T>
  static Result<void> get(std::span<const std::byte> bytes, T& value) {
    if (bytes.size() != sizeof(T)) return fail("{} bytes instead of {}", bytes.size(), sizeof(T));
    if constexpr (std::is_same_v<T, bool>) {
      if (bytes[0] > std::byte{1}) return fail("neither true nor false");
    }
    std::memcpy(&value, bytes.data(), sizeof(T));
    return {};
  }
  static Result<void> get(std::span<const std::byte> bytes, std::string& value) {
    value.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  }
  template <typename T>
  static Result<void> get(std::span<const std::byte> bytes, Raw<T>& value) {
    if (bytes.size() != sizeof(T)) return fail("{} bytes instead of {}", bytes.size(), sizeof(T));
    std::memcpy(&value.value, bytes.data(), sizeof(T));
    return {};
  }
  template <typename T, std::size_t N>
  static Result<void> get(std::span<const std::byte> bytes, std::array<T, N>& values) {
    std::vector<T> list;
    TRY(get(bytes, list));
    if (list.size() != N) return fail("{} elements instead of {}", list.size(), N);
    std::copy(list.begin(), list.end(), values.begin());
    return {};
  }
  template <typename T>
  static Result<void> get(std::span<const std::byte> bytes, std::vector<T>& values) {
    values.clear();
    if constexpr (Scalar<T>) {
      if (bytes.size() % sizeof(T) != 0) return fail("{} bytes are no list", bytes.size());
      values.resize(bytes.size() / sizeof(T));
      if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
      return {};
    } else {
      auto list = TRY(Decoder::open(bytes, kMaxElements));
      for (auto& field : list.fields_) {
        if (field.number != 1) return fail("element of the number {}", field.number);
        TRY(get(field.bytes, values.emplace_back()));
      }
      return {};
    }
  }
  template <typename T>
  static Result<void> get(std::span<const std::byte> bytes, Flat<T>& list) {
    if (bytes.size() % sizeof(T) != 0) return fail("{} bytes are not a list", bytes.size());
    if (!list.values.empty()) return fail("the list is there twice");
    list.values.resize(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(list.values.data(), bytes.data(), bytes.size());
    return {};
  }
  template <typename T>
    requires requires(T& t, Decoder& d) { t.fields(d); }
  static Result<void> get(std::span<const std::byte> bytes, T& value) {
    auto decoder = TRY(Decoder::open(bytes));
    value.fields(decoder);
    return decoder.finish();
  }

  std::vector<Field> fields_;
  std::optional<std::string> error_;
};

template <typename State>
std::vector<std::byte> encode(const State& state) {
  Encoder encoder;
  const_cast<State&>(state).fields(encoder);
  return encoder.take();
}

template <typename State>
Result<State> decode(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxBytes) {
    return fail("{} bytes are too many: at most {}", bytes.size(), kMaxBytes);
  }
  State state;
  auto decoder = TRY(Decoder::open(bytes));
  state.fields(decoder);
  TRY(decoder.finish());
  return state;
}

// As encode(). Error: decode() would not read it.
template <typename State>
Result<std::vector<std::byte>> encode_readable(const State& state) {
  auto bytes = encode(state);
  TRY(decode<State>(bytes));
  return bytes;
}

}  // namespace vmm::state
