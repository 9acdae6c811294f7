#include "src/hypervisor/snapshot/seal.h"

#include <sys/stat.h>

#include <sstream>

#include "src/hypervisor/snapshot/files.h"

namespace vmm::snapshot {
namespace {

// One line a file. Every write through the file system changes ctime, which nobody can set.
std::string line_of(const std::string& directory, const std::string& file) {
  struct stat s{};
  if (::stat((directory + "/" + file).c_str(), &s) < 0) return {};
  return fmt::format("{} {}:{} {} {}.{:09} {}.{:09}", file, s.st_dev, s.st_ino, s.st_size,
                     s.st_mtim.tv_sec, s.st_mtim.tv_nsec, s.st_ctim.tv_sec, s.st_ctim.tv_nsec);
}

}  // namespace

std::string make_seal(const std::string& directory, const std::vector<std::string>& files) {
  std::string text;
  for (const auto& file : files) {
    const auto line = line_of(directory, file);
    if (!line.empty()) text += line + "\n";
  }
  return text;
}

bool is_sealed(const std::string& directory, const std::string& file) {
  const auto text = read_part(directory, kSealFile, kMaxManifest);
  if (!text) return false;
  const auto wanted = line_of(directory, file);
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    if (!wanted.empty() && line == wanted) return true;
  }
  return false;
}

}  // namespace vmm::snapshot
