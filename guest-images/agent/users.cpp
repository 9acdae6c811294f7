#include "guest-images/agent/users.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "src/base/text.h"

namespace vmm::agent {
namespace {

using Entry = std::vector<std::string_view>;

std::optional<std::uint32_t> as_number(std::string_view text) {
  // 2^32 - 1 means "unchanged" to the kernel.
  const auto number = parse_number(text, 0, std::numeric_limits<std::uint32_t>::max() - 1, "id");
  if (!number) return std::nullopt;
  return static_cast<std::uint32_t>(*number);
}

// The first entry that fits, of lines with at least `fields` fields.
template <typename Fits>
std::optional<Entry> find(std::string_view file, std::size_t fields, Fits fits) {
  for (const std::string_view line : split(file, '\n')) {
    Entry entry = split(line, ':');
    if (entry.size() >= fields && fits(entry)) return entry;
  }
  return std::nullopt;
}

std::optional<Entry> find_named(std::string_view file, std::size_t fields, std::string_view name) {
  return find(file, fields, [&](const Entry& entry) { return entry[0] == name; });
}

constexpr std::size_t kPasswdFields = 6, kHome = 5;    // name:password:uid:gid:comment:home
constexpr std::size_t kGroupFields = 4, kMembers = 3;  // name:password:gid:members
constexpr std::size_t kId = 2, kPrimaryGroup = 3;

Result<gid_t> group_of(std::string_view text, std::string_view file) {
  if (const auto number = as_number(text)) return *number;
  const auto entry = find_named(file, kGroupFields - 1, text);
  if (!entry) return fail("unable to find group '{}': not in /etc/group", text);
  const auto number = as_number((*entry)[kId]);
  if (!number) return fail("group '{}' has the invalid id '{}'", text, (*entry)[kId]);
  return *number;
}

}  // namespace

Result<Credentials> look_up_user(std::string_view user, const std::vector<std::string>& groups,
                                 std::string_view passwd, std::string_view group) {
  const auto colon = user.find(':');
  const std::string_view name = user.substr(0, colon);
  const std::string_view group_name =
      colon == std::string_view::npos ? std::string_view() : user.substr(colon + 1);

  Credentials found;
  const auto number = name.empty() ? std::optional<std::uint32_t>(0) : as_number(name);
  // A name may consist of digits; as with Docker, an entry of that name comes first.
  auto entry = name.empty() ? std::nullopt : find_named(passwd, kPasswdFields, name);
  if (!entry && number) {
    entry = find(passwd, kPasswdFields,
                 [&](const Entry& one) { return as_number(one[kId]) == number; });
  }
  if (entry) {
    const auto id = as_number((*entry)[kId]), primary = as_number((*entry)[kPrimaryGroup]);
    if (!id || !primary) return fail("the entry of user '{}' in /etc/passwd has invalid ids", name);
    found = {*id, *primary, {}, std::string((*entry)[kHome])};
  } else if (number) {
    found.user = *number;
  } else {
    return fail("unable to find user '{}': not in /etc/passwd", name);
  }

  if (!group_name.empty()) {
    found.group = TRY(group_of(group_name, group));
  } else if (entry) {
    for (const std::string_view line : split(group, '\n')) {
      const Entry fields = split(line, ':');
      if (fields.size() < kGroupFields) continue;
      const auto members = split(fields[kMembers], ',');
      const auto id = as_number(fields[kId]);
      if (id && std::ranges::find(members, (*entry)[0]) != members.end()) {
        found.groups.push_back(*id);
      }
    }
  }
  for (const std::string& one : groups) found.groups.push_back(TRY(group_of(one, group)));
  return found;
}

}  // namespace vmm::agent
