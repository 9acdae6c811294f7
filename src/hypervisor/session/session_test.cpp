#include <gtest/gtest.h>

#include "src/hypervisor/session/signals.h"

namespace vmm {
namespace {

TEST(StopSignals, IgnoredOnesStayIgnored) {
  struct sigaction ignore{}, hangup{}, interrupt{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGHUP, &ignore, &hangup);
  ::sigaction(SIGINT, nullptr, &interrupt);
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGINT, &standard, nullptr);
  const auto set = stop_signals();
  ::sigaction(SIGHUP, &hangup, nullptr);
  ::sigaction(SIGINT, &interrupt, nullptr);
  EXPECT_EQ(sigismember(&set, SIGHUP), 0);
  EXPECT_EQ(sigismember(&set, SIGINT), 1);
}

}  // namespace
}  // namespace vmm
