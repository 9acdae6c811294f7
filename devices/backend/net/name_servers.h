// NameServers: the host's name servers, as resolv.conf(5) has them, and word of their changes. The
// network process reads no files, so the machine tells it.
//
//   NameServers names("/etc/resolv.conf");
//   use(names.servers());
//   ...                                      // names.fd() can be read:
//   if (names.refresh()) use(names.servers());
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/user_net/config.h"

namespace vmm::net {

class NameServers {
 public:
  explicit NameServers(std::string path);

  const std::vector<user_net::NameServer>& servers() const { return servers_; }
  // Why there are none; empty when there are.
  const std::string& complaint() const { return complaint_; }
  int fd() const { return watch_.get(); }
  // True when they are others now.
  bool refresh();

  static std::vector<user_net::NameServer> parse(std::string_view text);

 private:
  void watch(const std::string& file) const;

  const std::string path_;
  UniqueFd watch_;  // inotify; none: changes are seen at the next start
  std::vector<user_net::NameServer> servers_;
  std::string complaint_;
};

}  // namespace vmm::net
