#include "src/engine/runtime/names.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <random>

namespace vmm::engine {
namespace {

constexpr std::array<std::string_view, 64> kAdjectives = {
    "able",   "agile",  "amber",   "apt",    "bold",    "brave",   "bright", "brisk",
    "calm",   "candid", "cheery",  "clever", "cosmic",  "cozy",    "crisp",  "daring",
    "dapper", "eager",  "earnest", "elated", "epic",    "fair",    "fancy",  "fearless",
    "fluent", "frosty", "gentle",  "gifted", "golden",  "grand",   "happy",  "hardy",
    "honest", "humble", "jolly",   "keen",   "kind",    "lively",  "loyal",  "lucid",
    "merry",  "mighty", "modest",  "nimble", "noble",   "patient", "placid", "playful",
    "plucky", "quick",  "quiet",   "quirky", "radiant", "serene",  "sharp",  "silent",
    "snappy", "steady", "sunny",   "tender", "vivid",   "warm",    "witty",  "zesty"};

// People of computing, mathematics and physics.
constexpr std::array<std::string_view, 64> kSurnames = {
    "abel",      "aiken",    "agnesi",    "ampere",    "babbage",  "backus",     "bardeen",
    "bartik",    "bell",     "bernoulli", "bohr",      "boole",    "cantor",     "cauchy",
    "cayley",    "church",   "codd",      "curie",     "dijkstra", "dirac",      "easley",
    "engelbart", "euclid",   "euler",     "faraday",   "fermat",   "fermi",      "feynman",
    "galois",    "gauss",    "goedel",    "germain",   "hamilton", "hilbert",    "hermite",
    "hopper",    "huffman",  "kepler",    "kilby",     "klein",    "kolmogorov", "lagrange",
    "leibniz",   "lindelof", "lovelace",  "maxwell",   "mccarthy", "meitner",    "naur",
    "neumann",   "newell",   "noether",   "pascal",    "perlis",   "planck",     "poincare",
    "ramanujan", "ritchie",  "shannon",   "stieltjes", "tait",     "tesla",      "turing",
    "weyl"};

std::uint32_t random_number(std::size_t below) {
  static std::random_device device;
  return std::uniform_int_distribution<std::uint32_t>(
      0, static_cast<std::uint32_t>(below - 1))(device);
}

}  // namespace

std::string new_container_id() {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string id(64, '0');
  for (char& digit : id) digit = kDigits[random_number(kDigits.size())];
  return id;
}

std::string whimsical_name(unsigned attempt) {
  auto name = fmt::format("{}_{}", kAdjectives[random_number(kAdjectives.size())],
                          kSurnames[random_number(kSurnames.size())]);
  if (attempt > 0) name += fmt::format("{}", random_number(10));
  return name;
}

Result<void> check_container_name(std::string_view name) {
  const auto is_letter = [](unsigned char c) { return std::isalnum(c) != 0 && c < 0x80; };
  const auto is_inner = [&](unsigned char c) {
    return is_letter(c) || c == '_' || c == '.' || c == '-';
  };
  if (name.size() > 1 && name.size() <= 255 && is_letter(static_cast<unsigned char>(name[0])) &&
      std::ranges::all_of(name, is_inner)) {
    return {};
  }
  return fail("Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name);
}

}  // namespace vmm::engine
