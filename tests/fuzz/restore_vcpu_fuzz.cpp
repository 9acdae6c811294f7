// Saved states of the processor, the interrupt controller and the clock that somebody made up, put
// into a vCPU of this host's KVM. No guest runs.
#include <unistd.h>

#include <cstdio>

#include "arch/address_plan.h"
#include "arch/interrupts.h"
#include "arch/state.h"
#include "arch/vcpu.h"
#include "tests/fuzz/state_input.h"

namespace vmm::fuzz {
namespace {

constexpr std::uint64_t kMemorySize = 4u << 20;

struct Host {
  explicit Host(kvm::Kvm opened) : kvm(std::move(opened)) {
    vm = std::move(kvm.create_vm(arch::vm_type(kvm, kMemorySize).value()).value());
    memory = std::move(GuestMemory::create(arch::memory_ranges(kMemorySize)).value());
    vm->add_memory(*memory).value();
    arch::create_interrupt_controller(*vm).value();
    vcpu = std::move(vm->create_vcpu(0).value());
    arch::VcpuSetup::create(kvm, *vm, 1).value().apply(*vcpu).value();
    arch::start_interrupt_controller(*vm).value();
    chips = arch::save_interrupt_controller(*vm, 1).value();
    clock = arch::save_clock(*vm).value();
    processor = arch::save_vcpu(kvm, *vm, *vcpu).value();
  }
  kvm::Kvm kvm;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<kvm::Vm> vm;
  std::unique_ptr<kvm::Vcpu> vcpu;
  arch::InterruptControllerState chips;
  arch::ClockState clock;
  arch::VcpuState processor;
};

Host& host() {
  static Host host(std::move(kvm::Kvm::open().value()));
  return host;
}

// Errors are as welcome as success: what counts is that nothing is read past its end.
void restore(std::uint8_t kind, std::span<const std::uint8_t> input) {
  auto& on = host();
  if (kind % 4 == 0) {
    const auto state = decoded(on.chips, input);
    if (state) (void)arch::restore_interrupt_controller(*on.vm, *state);
  } else if (kind % 4 == 1) {
    const auto state = decoded(on.clock, input);
    if (state) (void)arch::restore_clock(*on.vm, *state);
  } else {
    const auto state = decoded(on.processor, input);
    if (!state) return;
    // A vCPU that has been like this one: KVM takes another model no more once it ran, or not at
    // all, and goes on with the rest.
    (void)arch::check_processors(on.kvm, *on.vm, {&*state, 1});
    (void)arch::restore_model(*on.vcpu, *state);
    (void)arch::restore_vcpu(*on.vm, *on.vcpu, *state, {});
  }
}

}  // namespace
}  // namespace vmm::fuzz

// Without a KVM there is nothing to put states into, and one that runs no guests may not survive
// them: tools/test reports the reason. (tools/test-host runs this program on a host that does.)
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  auto usable = vmm::kvm::Kvm::check_runs_guests();
  if (const auto kvm = vmm::kvm::Kvm::open(); !kvm) usable = std::unexpected(kvm.error());
  if (!usable) {
    std::fprintf(stderr, "skipped: %s\n", usable.error().message().c_str());
    ::_exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 0) vmm::fuzz::restore(data[0], {data + 1, size - 1});
  return 0;
}
