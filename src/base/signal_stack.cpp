#include "src/base/signal_stack.h"

#include <csignal>

namespace vmm {
namespace {

// A frame has a processor's registers in it: 11 KiB with the largest of x86.
constexpr std::size_t kSize = 64u << 10;

}  // namespace

SignalStack::SignalStack() {
  stack_t now{};
  if (sigaltstack(nullptr, &now) < 0 || (now.ss_flags & SS_DISABLE) == 0) return;
  auto stack = Mapping::create(kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!stack) return;
  stack_t ours{};
  ours.ss_sp = stack->data();
  ours.ss_size = stack->size();
  if (sigaltstack(&ours, nullptr) == 0) stack_ = std::move(*stack);
}

SignalStack::~SignalStack() {
  if (stack_.size() == 0) return;
  stack_t none{};
  none.ss_flags = SS_DISABLE;
  (void)sigaltstack(&none, nullptr);  // refused only while a handler runs on it
}

}  // namespace vmm
