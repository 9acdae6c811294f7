// While it lives, this process can open no descriptor.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/base/unique_fd.h"

namespace vmm::test {

class NoDescriptors {
 public:
  NoDescriptors() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    auto few = before_;
    few.rlim_cur = static_cast<rlim_t>(UniqueFd(::dup(0)).get());  // the lowest that is free
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  }
  NoDescriptors(const NoDescriptors&) = delete;
  ~NoDescriptors() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

}  // namespace vmm::test
