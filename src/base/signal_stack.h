// SignalStack: a stack for the handlers of the calling thread's signals while it lives, so that one
// runs even when the thread has used up its own (sigaction(2), SA_ONSTACK). Made and destroyed by
// the same thread. Takes no memory before it is used; without any, handlers run as before.
#pragma once

#include "src/base/mapping.h"

namespace vmm {

class SignalStack {
 public:
  SignalStack();
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;
  ~SignalStack();

 private:
  Mapping stack_;  // empty: none, or another one is in use
};

}  // namespace vmm
