// How devices interrupt the guest and how the guest rings them, without knowing of KVM.
#pragma once

#include <cstdint>
#include <memory>

#include "src/base/event_fd.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"

namespace vmm {

// One wired interrupt. Any thread.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void set_level(bool high) = 0;
  // An edge: raised and lowered at once.
  void pulse() {
    set_level(true);
    set_level(false);
  }
};

// A message-signalled interrupt (PCI Local Bus 3.0, 6.8.1).
struct MsiMessage {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  std::uint16_t requester = 0;  // who sends it: bus, device and function (8, 5 and 3 bits)
  friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

// An eventfd that the host's kernel turns into a message (irqfd): for vhost, whose interrupts
// never pass through this process. Destroying it takes the route back.
class MsiRoute {
 public:
  virtual ~MsiRoute() = default;
  virtual int event_fd() const = 0;
  virtual Result<void> set_message(const MsiMessage& message) = 0;
  // While off, signals stay in the eventfd; turning it on delivers them.
  virtual Result<void> set_enabled(bool enabled) = 0;
};

// Where messages go. Any thread.
class MsiSink {
 public:
  virtual ~MsiSink() = default;
  virtual void send(const MsiMessage& message) = 0;
  virtual Result<std::unique_ptr<MsiRoute>> create_route() = 0;
};

// Lets the host's kernel turn a guest's write to a register into a signal of an eventfd
// (ioeventfd), so that no vCPU leaves the kernel for a doorbell. Any thread.
class DoorbellRegistry {
 public:
  virtual ~DoorbellRegistry() = default;
  // Any write of any width at `address`, any value.
  virtual Result<void> attach(GuestAddress address, const EventFd& event) = 0;
  virtual void detach(GuestAddress address, const EventFd& event) = 0;
};

}  // namespace vmm
