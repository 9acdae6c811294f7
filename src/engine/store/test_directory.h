// TestDirectory: a directory that goes with a test.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace vmm::engine {

class TestDirectory {
 public:
  TestDirectory() : path_((std::filesystem::temp_directory_path() / "vmm-test-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  TestDirectory(const TestDirectory&) = delete;
  ~TestDirectory() {
    std::error_code ignored;  // the test has its result
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace vmm::engine
