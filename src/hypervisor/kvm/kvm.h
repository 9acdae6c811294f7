// The only wrapper of the KVM ioctls (Documentation/virt/kvm/api.rst of the kernel).
//
//   auto kvm = TRY(Kvm::open());                 // is there a KVM, and can it run guests?
//   auto vm = TRY(kvm.create_vm());
//   TRY(vm->add_memory(*memory));
//   auto vcpu = TRY(vm->create_vcpu(0));
//   for (;;) switch (TRY(vcpu->run())) ...
//
// What differs between architectures lies in x86_64/ and aarch64/, which reach the descriptors by
// fd() and the ioctl helpers below.
#pragma once

#include <sys/ioctl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "src/base/log.h"
#include "src/base/mapping.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::kvm {

// ioctl(2) that retries on EINTR. Error: "KVM_NAME: text of errno".
template <typename Argument>
Result<int> call(int fd, unsigned long request, const char* name, Argument argument) {
  int result;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return fail_errno("{}", name);
  return result;
}

// The kernel's structures that end in an array: a header, then `count` entries.
template <typename Header, typename Entry>
class Table {
 public:
  explicit Table(std::size_t count) : bytes_(sizeof(Header) + count * sizeof(Entry)) {}
  explicit Table(std::span<const Entry> entries) : Table(entries.size()) {
    std::ranges::copy(entries, this->entries());
  }
  Header* header() { return reinterpret_cast<Header*>(bytes_.data()); }
  Entry* entries() { return reinterpret_cast<Entry*>(bytes_.data() + sizeof(Header)); }

 private:
  std::vector<std::byte> bytes_;
};

class Vm;

class Kvm {
 public:
  // Errors say why there is none: no device, no permission, not a KVM.
  static Result<Kvm> open(const std::string& path = "/dev/kvm");

  // Error: this host's KVM offers all its calls but boots no stock kernel (one for processors
  // without virtualization emulates a guest's kernel, and some instructions not at all).
  static Result<void> check_runs_guests();

  int fd() const { return fd_.get(); }
  // KVM_CHECK_EXTENSION: 0 when it is not there.
  int extension(int capability) const;
  unsigned max_vcpus() const;
  // `type`: the argument of KVM_CREATE_VM, which the architecture knows.
  Result<std::unique_ptr<Vm>> create_vm(unsigned long type) const;

 private:
  explicit Kvm(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Why a vCPU left the guest, for the exits that all architectures share.
enum class Exit {
  io,           // a port was accessed: run().io
  mmio,         // run().mmio
  interrupted,  // a signal or immediate_exit
  shutdown,     // triple fault
  halt,
  // What the guest asked its firmware, KVM, for (KVM_EXIT_SYSTEM_EVENT).
  power_off,
  reset,
  crash,
  other,  // run().exit_reason tells
};

class Vcpu {
 public:
  int fd() const { return fd_.get(); }
  unsigned index() const { return index_; }
  kvm_run& state() const { return *reinterpret_cast<kvm_run*>(run_.data()); }

  // KVM_RUN, by the vCPU's own thread. Error: the kernel refuses to run it any more.
  Result<Exit> run();
  // Maps guest memory for the guest, as if this vCPU had read each page of it, before it does: for
  // its own thread, between runs. Less than all: a signal came, or KVM cannot
  // (KVM_CAP_PRE_FAULT_MEMORY says whether it can at all). Returns bytes.
  std::uint64_t map_memory(GuestAddress base, std::uint64_t size);
  // Makes the next or the current run() return `interrupted`, together with a signal to its
  // thread; any thread.
  void set_immediate_exit(bool on);
  // Where the data of an io exit lies.
  std::byte* io_data() const { return run_.data() + state().io.data_offset; }

  // Writes that wait (Vm::collect_port_writes), this vCPU's and others', the oldest first: to be
  // done before what this one left the guest for.
  using PortWrite = std::function<void(std::uint64_t port, unsigned size, std::uint64_t value)>;
  void serve_collected(const PortWrite& write) const {
    if (collected_ != nullptr && has_collected()) drain_collected(write);
  }

 private:
  friend class Vm;
  Vcpu(unsigned index, UniqueFd fd, Mapping run)
      : index_(index), fd_(std::move(fd)), run_(std::move(run)) {}
  bool has_collected() const;
  void drain_collected(const PortWrite& write) const;

  unsigned index_;
  UniqueFd fd_;
  Mapping run_;
  // One for all vCPUs, each of which maps it behind its kvm_run; null: nothing is collected.
  kvm_coalesced_mmio_ring* collected_ = nullptr;
  std::mutex* collected_mutex_ = nullptr;  // the VM's; held by who takes out
};

class Vm : public MsiSink, public DoorbellRegistry {
 public:
  int fd() const { return fd_.get(); }

  // One memory slot a region. The memory outlives the VM.
  Result<void> add_memory(const GuestMemory& memory);
  // Likewise its windows, which the guest cannot write to (KVM_MEM_READONLY): a write is an mmio
  // exit, or an error of run() where KVM cannot tell what is written (arm64, of more than one
  // register). Once, before the first vCPU runs.
  Result<void> add_windows(const GuestMemory& memory);
  Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index);
  // Writes inside of these ports need no exit of their own from now on: KVM keeps them until a vCPU
  // leaves the guest for another reason (api.rst, 4.116 KVM_REGISTER_COALESCED_MMIO). Where it
  // cannot, they are exits as before. Before the first vCPU.
  void collect_port_writes(std::uint64_t port, std::uint32_t size);

  // An interrupt controller (or another in-kernel device) of the kind KVM_DEV_TYPE_*. The VM keeps
  // it; device() finds its descriptor again, which is none of a kind that was never created.
  Result<int> create_device(std::uint32_t type);
  Result<int> device(std::uint32_t type) const;

  // A wired interrupt of the in-kernel controller, by its number in KVM_IRQ_LINE. Lives as long as
  // the VM.
  std::unique_ptr<InterruptLine> line(std::uint32_t gsi) const;

  // Routes of the wired interrupts, which create_route() must repeat: set by the architecture
  // after it made its interrupt controller.
  void set_fixed_routes(std::vector<kvm_irq_routing_entry> routes);
  // The controller tells messages apart by who sends them (KVM_CAP_MSI_DEVID).
  void name_requesters() { message_flags_ = KVM_MSI_VALID_DEVID; }

  // MsiSink
  void send(const MsiMessage& message) override;
  Result<std::unique_ptr<MsiRoute>> create_route() override;
  // DoorbellRegistry
  Result<void> attach(GuestAddress address, const EventFd& event) override;
  void detach(GuestAddress address, const EventFd& event) override;

 private:
  friend class Kvm;
  class Route;
  Vm(UniqueFd fd, std::size_t run_size, std::size_t ring_offset)
      : fd_(std::move(fd)), run_size_(run_size), ring_offset_(ring_offset) {}
  Result<void> program_routes();
  Result<void> doorbell(GuestAddress address, const EventFd& event, std::uint32_t flags);

  struct Device {
    std::uint32_t type;
    UniqueFd fd;
  };

  UniqueFd fd_;
  const std::size_t run_size_;
  const std::size_t ring_offset_;  // in what a vCPU maps; 0: this KVM collects nothing
  bool collects_ = false;
  std::mutex collected_mutex_;
  std::vector<Device> devices_;
  std::uint32_t message_flags_ = 0;
  log::RateLimit limit_;
  std::mutex mutex_;  // guards the routes
  std::vector<kvm_irq_routing_entry> fixed_routes_;
  std::vector<Route*> routes_;  // index + kFirstMsiGsi is the GSI; null: free
};

}  // namespace vmm::kvm
