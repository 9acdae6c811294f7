#include "src/user_net/resource_limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <string_view>

#include "src/user_net/config.h"
#include "src/user_net/name_connections.h"
#include "src/user_net/name_relay.h"

namespace vmm::user_net {
namespace {

constexpr rlim_t kConnections = 2048;
constexpr rlim_t kOwnDescriptors = 64 + NameRelay::kQueries + NameConnections::kDescriptors;
[[maybe_unused]] constexpr rlim_t kMemory = 768u << 20;
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VMM_NET_SANITIZED  // by something that reserves terabytes of addresses
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define VMM_NET_SANITIZED
#endif

Result<void> limit(int resource, rlim_t most, std::string_view what) {
  rlimit limits{};
  if (::getrlimit(resource, &limits) < 0) return fail_errno("cannot read the limit of {}", what);
  limits.rlim_max = std::min(limits.rlim_max, most);
  limits.rlim_cur = limits.rlim_max;
  if (::setrlimit(resource, &limits) < 0) return fail_errno("cannot limit {}", what);
  return {};
}

}  // namespace

Result<void> limit_resources(std::size_t published) {
  TRY(limit(RLIMIT_NOFILE, kConnections + kMostPublished + kOwnDescriptors, "descriptors"));
  limit_descriptors(published);
  TRY(limit(RLIMIT_CORE, 0, "core files"));  // a guest would leave one a death
#ifndef VMM_NET_SANITIZED
  TRY(limit(RLIMIT_AS, kMemory, "memory"));
#endif
  return {};
}

void limit_descriptors(std::size_t published) {
  rlimit limits{};
  if (::getrlimit(RLIMIT_NOFILE, &limits) < 0) return;
  limits.rlim_cur = std::min<rlim_t>(limits.rlim_max, kConnections + published + kOwnDescriptors);
  // What is within the hard limit is not refused.
  (void)::setrlimit(RLIMIT_NOFILE, &limits);
}

}  // namespace vmm::user_net
