// Files for tests that go away with them.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace vmm::test {

// Where a test's file lies: in memory (tmpfs), or on whatever holds the build directory.
inline constexpr const char* kInMemory = "/dev/shm";
inline constexpr const char* kOnDisk = ".";

class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::string& parent = kOnDisk) {
    std::string pattern = parent + "/vmm-test-XXXXXX";
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  // Makes a file of `size` bytes with a pattern that differs from sector to sector.
  std::string file(const std::string& name, std::size_t size) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path, std::ios::binary) << pattern(size);
    return path;
  }
  static std::string pattern(std::size_t size) {
    std::string sector(512, '\0'), content;
    for (std::size_t i = 0; content.size() < size; ++i) {
      for (std::size_t k = 0; k < 512; ++k) sector[k] = static_cast<char>((i * 7 + k) & 0xff);
      content += sector;
    }
    content.resize(size);
    return content;
  }
  static std::string content(const std::string& path) {
    std::error_code missing;
    const auto size = std::filesystem::file_size(path, missing);
    if (missing) return {};
    std::ifstream stream(path, std::ios::binary);
    std::string content(size, '\0');
    stream.read(content.data(), static_cast<std::streamsize>(content.size()));
    return content;
  }

 private:
  std::string path_;
};

}  // namespace vmm::test
