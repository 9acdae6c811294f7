#include "src/engine/image/reference.h"

#include <algorithm>

#include "src/base/text.h"

namespace vmm::engine {
namespace {

constexpr std::string_view kDefaultRegistry = "docker.io";
constexpr std::string_view kOfficial = "library/";
constexpr std::size_t kMaxRepository = 255;
constexpr std::size_t kMaxTag = 128;
constexpr std::size_t kIdDigits = 64;

bool is_lower(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_word(char c) { return is_lower(c) || is_upper(c) || c == '_'; }

// Lower-case words, between which there is one of . _ __ or any number of -.
bool is_path_component(std::string_view text) {
  if (text.empty() || !is_lower(text.front()) || !is_lower(text.back())) return false;
  for (std::size_t i = 0; i < text.size();) {
    if (is_lower(text[i])) {
      ++i;
      continue;
    }
    auto end = i;
    while (!is_lower(text[end])) ++end;  // the last character is one
    const auto separator = text.substr(i, end - i);
    if (separator != "." && separator != "_" && separator != "__" &&
        separator.find_first_not_of('-') != std::string_view::npos) {
      return false;
    }
    i = end;
  }
  return true;
}

bool is_port(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool is_host(std::string_view text) {
  if (text.starts_with('[')) {
    return text.ends_with(']') && text.size() > 2 &&
           text.find_first_not_of("0123456789abcdefABCDEF:", 1) == text.size() - 1;
  }
  for (const auto label : split(text, '.')) {
    const auto fits = [](char c) { return is_lower(c) || is_upper(c) || c == '-'; };
    if (label.empty() || label.starts_with('-') || label.ends_with('-') ||
        !std::ranges::all_of(label, fits)) {
      return false;
    }
  }
  return true;
}

bool is_registry(std::string_view text) {
  if (const auto bracket = text.rfind(']'); bracket != std::string_view::npos) {
    const auto rest = text.substr(bracket + 1);
    return is_host(text.substr(0, bracket + 1)) &&
           (rest.empty() || (rest[0] == ':' && is_port(rest.substr(1))));
  }
  const auto colon = text.find(':');
  return is_host(text.substr(0, colon)) &&
         (colon == std::string_view::npos || is_port(text.substr(colon + 1)));
}

// Whether the first component names a registry rather than a user of the default one.
bool names_registry(std::string_view first) {
  return first.find_first_of(".:") != std::string_view::npos || first == "localhost" ||
         std::ranges::any_of(first, is_upper);
}

bool is_tag(std::string_view text) {
  return !text.empty() && text.size() <= kMaxTag && is_word(text[0]) &&
         std::ranges::all_of(text, [](char c) { return is_word(c) || c == '.' || c == '-'; });
}

bool is_id(std::string_view text) {
  return text.size() == kIdDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

Reference Reference::with_default_tag() const {
  Reference result = *this;
  if (tag.empty() && !digest) result.tag = kDefaultTag;
  return result;
}

std::string Reference::familiar() const {
  std::string text = familiar_repository(repository());
  if (!tag.empty()) text += ":" + tag;
  if (digest) text += "@" + digest->text();
  return text;
}

std::string familiar_repository(std::string_view repository) {
  const auto slash = repository.find('/');
  if (repository.substr(0, slash) == kDefaultRegistry) {
    repository.remove_prefix(slash + 1);
    const auto name = repository.substr(kOfficial.size() * repository.starts_with(kOfficial));
    if (name.find('/') == std::string_view::npos) repository = name;
  }
  return std::string(repository);
}

Result<Reference> parse_reference(std::string_view text) {
  constexpr auto kInvalid = "invalid reference format";
  if (is_id(text)) {
    return fail("invalid repository name ({}), cannot specify 64-byte hexadecimal strings", text);
  }
  Reference reference;
  if (const auto at = text.find('@'); at != std::string_view::npos) {
    auto digest = Digest::parse(text.substr(at + 1));
    if (!digest) return fail("{}: {}", kInvalid, digest.error().message());
    reference.digest = std::move(*digest);
    text = text.substr(0, at);
  }
  const auto slash = text.find('/');
  if (slash != std::string_view::npos && names_registry(text.substr(0, slash))) {
    reference.registry = text.substr(0, slash);
    text.remove_prefix(slash + 1);
  }
  if (const auto colon = text.rfind(':'); colon != std::string_view::npos) {
    reference.tag = text.substr(colon + 1);
    text = text.substr(0, colon);
    if (!is_tag(reference.tag)) return fail("{}", kInvalid);
  }
  if (reference.registry.empty() || reference.registry == "index.docker.io") {
    reference.registry = kDefaultRegistry;
  }
  if (reference.registry == kDefaultRegistry && text.find('/') == std::string_view::npos) {
    reference.path = kOfficial;
  }
  reference.path += text;
  if (!is_registry(reference.registry)) return fail("{}", kInvalid);
  if (std::ranges::any_of(text, is_upper)) {
    return fail("{}: repository name ({}) must be lowercase", kInvalid, reference.path);
  }
  if (!std::ranges::all_of(split(reference.path, '/'), is_path_component)) {
    return fail("{}", kInvalid);
  }
  if (reference.repository().size() > kMaxRepository) {
    return fail("{}: the repository's name is longer than {}", kInvalid, kMaxRepository);
  }
  return reference;
}

}  // namespace vmm::engine
