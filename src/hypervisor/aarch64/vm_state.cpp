// The interrupt controller's state (arm-vgic-v3.rst, arm-vgic-its.rst) and the clock's.
#include <time.h>

#include <algorithm>

#include "arch/address_plan.h"
#include "arch/interrupts.h"
#include "arch/state.h"

namespace vmm::arch {
namespace {

// Distributor (Arm IHI 0069, 12.9); banked by 32 bits.
constexpr std::uint32_t kGicdControl = 0x0000;
constexpr std::uint32_t kGicdImplementer = 0x0008;
constexpr std::uint32_t kGicdStatus = 0x0010;
constexpr std::uint32_t kGicdGroup = 0x0080;
constexpr std::uint32_t kGicdEnable = 0x0100;
constexpr std::uint32_t kGicdPending = 0x0200;
constexpr std::uint32_t kGicdActive = 0x0300;
constexpr std::uint32_t kGicdPriority = 0x0400;
constexpr std::uint32_t kGicdConfiguration = 0x0c00;
constexpr std::uint32_t kGicdRouter = 0x6000;  // 64 bits each

// Redistributor (12.11, 12.12): the second half is like the distributor, for private interrupts.
constexpr std::uint32_t kGicrControl = 0x00000;
constexpr std::uint32_t kGicrStatus = 0x00010;
constexpr std::uint32_t kGicrWaker = 0x00014;
constexpr std::uint32_t kGicrProperties = 0x00070;  // 64 bits
constexpr std::uint32_t kGicrPending = 0x00078;     // 64 bits
constexpr std::uint32_t kGicrPrivate = 0x10000;

// Processor interface (12.2): op0, op1, CRn, CRm, op2 of its system registers.
constexpr std::uint64_t system_register(unsigned op0, unsigned op1, unsigned crn, unsigned crm,
                                        unsigned op2) {
  return op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
}
constexpr std::uint64_t kIccEnable = system_register(3, 0, 12, 12, 5);
constexpr std::uint64_t kIccControl = system_register(3, 0, 12, 12, 4);
constexpr std::uint64_t kIccRegisters[] = {
    kIccEnable,
    kIccControl,
    system_register(3, 0, 12, 12, 6),  // group 0 enable
    system_register(3, 0, 12, 12, 7),  // group 1 enable
    system_register(3, 0, 4, 6, 0),    // priority mask
    system_register(3, 0, 12, 8, 3),   // binary points
    system_register(3, 0, 12, 12, 3),
};
constexpr std::uint64_t active_priority(unsigned group, unsigned n) {
  return group == 0 ? system_register(3, 0, 12, 8, 4 + n) : system_register(3, 0, 12, 9, n);
}

// ITS (12.19).
constexpr std::uint64_t kGitsControl = 0x0000;
constexpr std::uint64_t kGitsImplementer = 0x0004;
constexpr std::uint64_t kGitsCommands = 0x0080;
constexpr std::uint64_t kGitsWrite = 0x0088;
constexpr std::uint64_t kGitsRead = 0x0090;
constexpr std::uint64_t kGitsTables = 0x0100;
constexpr unsigned kGitsTableCount = 8;

constexpr unsigned kInterrupts = kFirstSpi + kSpiCount;
// In the attribute of KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO: the level of the line, and a first number.
constexpr std::uint64_t kLineLevel = std::uint64_t{VGIC_LEVEL_INFO_LINE_LEVEL}
                                     << KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT;

std::uint64_t of_vcpu(unsigned index, std::uint64_t attribute) {
  return affinity_of(index) << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT | attribute;
}

// Registers of 32 bits, and the two of KVM's kinds that have 64.
template <typename T>
Result<void> read_into(std::vector<ChipRegisterState>& list, int device, std::uint32_t group,
                       std::uint64_t attribute) {
  T value = 0;
  TRY(get_attribute(device, group, attribute, &value, "an interrupt controller's register"));
  list.push_back({attribute, value});
  return {};
}

template <typename T>
Result<void> write_from(const std::vector<ChipRegisterState>& list, int device,
                        std::uint32_t group) {
  for (const auto& reg : list) {
    const auto value = static_cast<T>(reg.value);
    const auto set =
        set_attribute(device, group, reg.attribute, &value, "an interrupt controller's register");
    if (!set) {
      return fail("this host's KVM refuses register {:#x} of the interrupt controller: {}",
                  reg.attribute, set.error().message());
    }
  }
  return {};
}

Result<void> order(int device, std::uint64_t attribute, const char* what) {
  return set_attribute(device, KVM_DEV_ARM_VGIC_GRP_CTRL, attribute, nullptr, what);
}

Result<void> save_distributor(int gic, InterruptControllerState& state) {
  std::vector<std::uint32_t> offsets = {kGicdImplementer, kGicdControl, kGicdStatus};
  // `bits` an interrupt, those of the shared ones.
  const auto add = [&offsets](std::uint32_t base, unsigned bits) {
    for (unsigned at = kFirstSpi * bits / 8; at < kInterrupts * bits / 8; at += 4) {
      offsets.push_back(base + at);
    }
  };
  add(kGicdGroup, 1);
  add(kGicdConfiguration, 2);
  add(kGicdPriority, 8);
  add(kGicdRouter, 64);
  add(kGicdEnable, 1);
  add(kGicdPending, 1);
  add(kGicdActive, 1);
  for (const auto offset : offsets) {
    TRY(read_into<std::uint32_t>(state.distributor, gic, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset));
  }
  return {};
}

// The two tables of messages stand before the register that turns messages on.
Result<void> save_redistributor(int gic, unsigned vcpu, InterruptControllerState& state) {
  std::vector<std::uint32_t> offsets = {
      kGicrStatus,  kGicrWaker,       kGicrProperties, kGicrProperties + 4,
      kGicrPending, kGicrPending + 4, kGicrControl,    kGicrPrivate + kGicdGroup};
  for (std::uint32_t at = 0; at < kFirstSpi * 2 / 8; at += 4) {
    offsets.push_back(kGicrPrivate + kGicdConfiguration + at);
  }
  for (std::uint32_t at = 0; at < kFirstSpi; at += 4) {
    offsets.push_back(kGicrPrivate + kGicdPriority + at);
  }
  for (const auto base : {kGicdEnable, kGicdPending, kGicdActive}) {
    offsets.push_back(kGicrPrivate + base);
  }
  for (const auto offset : offsets) {
    TRY(read_into<std::uint32_t>(state.redistributors, gic, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
                                 of_vcpu(vcpu, offset)));
  }
  return {};
}

Result<void> save_processor_interface(int gic, unsigned vcpu, InterruptControllerState& state) {
  auto& list = state.processor_interfaces;
  for (const auto reg : kIccRegisters) {
    TRY(read_into<std::uint64_t>(list, gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, of_vcpu(vcpu, reg)));
  }
  std::uint64_t control = 0;
  TRY(get_attribute(gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, of_vcpu(vcpu, kIccControl), &control,
                    "the processor interface's control register"));
  // PRIbits, less one, in bits 10..8: 32 priorities a register.
  const unsigned registers =
      1u << (std::clamp((control >> 8 & 7) + 1, std::uint64_t{5}, std::uint64_t{7}) - 5);
  for (unsigned group = 0; group < 2; ++group) {
    for (unsigned n = 0; n < registers; ++n) {
      TRY(read_into<std::uint64_t>(list, gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
                                   of_vcpu(vcpu, active_priority(group, n))));
    }
  }
  return {};
}

// In the order of arm-vgic-its.rst, "ITS Restore Sequence"; the control register, which is last, is
// written behind the tables.
Result<void> save_its(int its, InterruptControllerState& state) {
  std::vector<std::uint64_t> offsets = {kGitsImplementer, kGitsCommands, kGitsRead, kGitsWrite};
  for (unsigned i = 0; i < kGitsTableCount; ++i) offsets.push_back(kGitsTables + 8 * i);
  offsets.push_back(kGitsControl);
  for (const auto offset : offsets) {
    TRY(read_into<std::uint64_t>(state.its, its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset));
  }
  return {};
}

std::uint64_t realtime_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

// CNTFRQ_EL0: the guest reads the host's.
std::uint64_t counter_frequency() {
  std::uint64_t frequency = 0;
  asm volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
  return frequency;
}

}  // namespace

Result<InterruptControllerState> save_interrupt_controller(const kvm::Vm& vm, unsigned vcpus) {
  const int gic = TRY(vm.device(KVM_DEV_TYPE_ARM_VGIC_V3));
  const int its = TRY(vm.device(KVM_DEV_TYPE_ARM_VGIC_ITS));
  InterruptControllerState state;
  // Both write to guest memory, which is saved after this.
  TRY(order(its, KVM_DEV_ARM_ITS_SAVE_TABLES, "KVM_DEV_ARM_ITS_SAVE_TABLES"));
  TRY(order(gic, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES, "KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES"));
  TRY(save_distributor(gic, state));
  for (unsigned i = 0; i < vcpus; ++i) {
    TRY(save_redistributor(gic, i, state));
    TRY(save_processor_interface(gic, i, state));
    TRY(read_into<std::uint32_t>(state.levels, gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
                                 of_vcpu(i, kLineLevel)));
  }
  TRY(read_into<std::uint32_t>(state.levels, gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
                               of_vcpu(0, kLineLevel | kFirstSpi)));
  TRY(save_its(its, state));
  return state;
}

Result<void> restore_interrupt_controller(const kvm::Vm& vm,
                                          const InterruptControllerState& state) {
  const int gic = TRY(vm.device(KVM_DEV_TYPE_ARM_VGIC_V3));
  const int its = TRY(vm.device(KVM_DEV_TYPE_ARM_VGIC_ITS));
  TRY(write_from<std::uint32_t>(state.distributor, gic, KVM_DEV_ARM_VGIC_GRP_DIST_REGS));
  TRY(write_from<std::uint32_t>(state.redistributors, gic, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS));
  TRY(write_from<std::uint32_t>(state.levels, gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO));
  TRY(write_from<std::uint64_t>(state.processor_interfaces, gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS));
  if (state.its.empty()) return fail("the interrupt controller's state has no ITS");
  auto registers = state.its;
  const std::vector<ChipRegisterState> control = {registers.back()};
  registers.pop_back();
  TRY(write_from<std::uint64_t>(registers, its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS));
  TRY(order(its, KVM_DEV_ARM_ITS_RESTORE_TABLES, "KVM_DEV_ARM_ITS_RESTORE_TABLES"));
  return write_from<std::uint64_t>(control, its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS);
}

Result<ClockState> save_clock(const kvm::Vm&) {
  return ClockState{.frequency = counter_frequency(), .realtime_ns = realtime_now()};
}

Result<ClockShift> restore_clock(const kvm::Vm&, const ClockState& state) {
  __extension__ using Wide = unsigned __int128;
  const std::uint64_t here = counter_frequency();
  if (state.frequency != here) {
    return fail("the guest counts time by a counter of {} Hz, this host's has {} Hz",
                state.frequency, here);
  }
  const std::uint64_t now = realtime_now();
  const std::uint64_t elapsed_ns = now > state.realtime_ns ? now - state.realtime_ns : 0;
  return ClockShift{static_cast<std::uint64_t>(Wide{elapsed_ns} * here / 1'000'000'000)};
}

}  // namespace vmm::arch
