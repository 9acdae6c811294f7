// Whom a process runs as: a user specification and the container's /etc/passwd and /etc/group.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::agent {

struct Credentials {
  uid_t user = 0;
  gid_t group = 0;
  std::vector<gid_t> groups;  // additional ones
  std::string home = "/";
};

// `user` is "name", "uid", "name:group", "uid:gid" or empty (root). Numbers need no entry, names
// do. The groups of which a user's name is a member are his, unless `user` names a group.
Result<Credentials> look_up_user(std::string_view user, const std::vector<std::string>& groups,
                                 std::string_view passwd, std::string_view group);

}  // namespace vmm::agent
