#include "devices/backend/net/name_servers.h"

#include <net/if.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cstdlib>
#include <memory>

#include "src/base/text.h"

namespace vmm::net {
namespace {

constexpr std::size_t kMostServers = 3;  // resolv.conf(5)

std::string_view take_word(std::string_view& line) {
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!line.empty() && is_space(line.front())) line.remove_prefix(1);
  std::size_t size = 0;
  while (size < line.size() && !is_space(line[size])) ++size;
  const auto word = line.substr(0, size);
  line.remove_prefix(size);
  return word;
}

// Where a chain of symbolic links ends; the path itself when that is nowhere.
std::string real_path(const std::string& path) {
  struct Free {
    void operator()(char* text) const { std::free(text); }
  };
  const std::unique_ptr<char, Free> real(::realpath(path.c_str(), nullptr));
  return real ? std::string(real.get()) : path;
}

}  // namespace

NameServers::NameServers(std::string path)
    : path_(std::move(path)), watch_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  refresh();
}

// A directory rather than the file, which is replaced as a rule.
void NameServers::watch(const std::string& file) const {
  const auto folder = file.substr(0, file.rfind('/') + 1);
  (void)::inotify_add_watch(watch_.get(), folder.c_str(),
                            IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE);
}

bool NameServers::refresh() {
  std::array<char, 4096> events;
  while (::read(watch_.get(), events.data(), events.size()) > 0) {
  }
  // Watched before it is read, so that no change falls between.
  watch(path_);
  watch(real_path(path_));
  const auto text = read_text_file(path_);
  auto found = text ? parse(*text) : std::vector<user_net::NameServer>();
  complaint_.clear();
  if (!text) {
    complaint_ = text.error().message();
  } else if (found.empty()) {
    complaint_ = fmt::format("'{}' names no name server", path_);
  }
  const bool changed = found != servers_;
  servers_ = std::move(found);
  return changed;
}

std::vector<user_net::NameServer> NameServers::parse(std::string_view text) {
  std::vector<user_net::NameServer> servers;
  for (auto line : split(text, '\n')) {
    if (take_word(line) != "nameserver" || servers.size() == kMostServers) continue;
    const auto word = take_word(line);
    const auto percent = word.find('%');
    const auto address = user_net::IpAddress::parse(word.substr(0, percent));
    if (!address) continue;
    std::uint32_t scope = 0;
    if (percent != std::string_view::npos) {
      const std::string name(word.substr(percent + 1));
      const auto number = parse_number(name, 1, UINT32_MAX, "interface");
      scope = number ? static_cast<std::uint32_t>(*number) : ::if_nametoindex(name.c_str());
    }
    servers.push_back({*address, scope});
  }
  return servers;
}

}  // namespace vmm::net
