#include "arch/vcpu.h"

#include <array>

#include "arch/address_plan.h"
#include "arch/cpuid.h"

namespace vmm::arch {
namespace {

// Intel SDM volume 4, and AMD's equal.
constexpr std::uint32_t kMsrMiscEnable = 0x1a0;
constexpr std::uint32_t kMsrMtrrDefaultType = 0x2ff;
constexpr std::uint64_t kFastStrings = 1;
constexpr std::uint64_t kMtrrEnable = 1u << 11;
constexpr std::uint64_t kWriteBack = 6;

constexpr std::uint64_t kCr0ProtectedMode = 1;
constexpr std::uint64_t kCr0ExtensionType = 1u << 4;
constexpr std::uint64_t kCr0Paging = 1u << 31;
constexpr std::uint64_t kCr4Pae = 1u << 5;
constexpr std::uint64_t kEferLongModeEnable = 1u << 8;
constexpr std::uint64_t kEferLongModeActive = 1u << 10;
constexpr std::uint64_t kRflagsReserved = 2;

// Page table entries.
constexpr std::uint64_t kPresentWritable = 3;
constexpr std::uint64_t kLargePage = 1u << 7;
constexpr std::uint64_t kPage = 4096;

// The GDT: null, unused, code, data, task (selectors 0, 8, 0x10, 0x18, 0x20). The 64-bit Linux
// protocol asks for __BOOT_CS 0x10 and __BOOT_DS 0x18.
constexpr std::uint16_t kCode = 0x10;
constexpr std::uint16_t kData = 0x18;
constexpr std::uint16_t kTask = 0x20;

kvm_segment segment(std::uint16_t selector, std::uint8_t type, bool code, bool long_mode) {
  kvm_segment s{};
  s.base = 0;
  s.limit = 0xffff'ffff;
  s.selector = selector;
  s.type = type;
  s.present = 1;
  s.db = code && long_mode ? 0 : 1;
  s.s = 1;
  s.l = code && long_mode ? 1 : 0;
  s.g = 1;
  return s;
}

kvm_segment task_segment() {
  kvm_segment s{};
  s.limit = 0x67;
  s.selector = kTask;
  s.type = 11;  // busy TSS
  s.present = 1;
  return s;
}

// A descriptor as it lies in a table (Intel SDM volume 3, 3.4.5).
std::uint64_t descriptor(const kvm_segment& s) {
  const std::uint64_t limit = s.g != 0 ? s.limit >> 12 : s.limit;
  std::uint64_t d = limit & 0xffff;
  d |= (s.base & 0xff'ffff) << 16;
  d |= std::uint64_t{s.type} << 40 | std::uint64_t{s.s} << 44 | std::uint64_t{s.dpl} << 45;
  d |= std::uint64_t{s.present} << 47 | ((limit >> 16) & 0xf) << 48;
  d |= std::uint64_t{s.avl} << 52 | std::uint64_t{s.l} << 53 | std::uint64_t{s.db} << 54;
  d |= std::uint64_t{s.g} << 55 | ((s.base >> 24) & 0xff) << 56;
  return d;
}

// The first 4 GiB, mapped one to one with pages of 2 MiB for the first GiB: enough for a kernel to
// build its own tables.
Result<void> write_page_tables(const GuestMemory& memory) {
  const GuestAddress level4 = kPageTables;
  const GuestAddress level3 = level4 + kPage;
  const GuestAddress level2 = level3 + kPage;
  TRY(memory.write(level4, level3.value | kPresentWritable));
  TRY(memory.write(level3, level2.value | kPresentWritable));
  std::array<std::uint64_t, 512> pages;
  for (std::uint64_t i = 0; i < pages.size(); ++i) {
    pages[i] = i << 21 | kPresentWritable | kLargePage;
  }
  return memory.write(level2, pages);
}

}  // namespace

Result<unsigned long> vm_type(const kvm::Kvm&, std::uint64_t) { return 0; }

Result<VcpuSetup> VcpuSetup::create(const kvm::Kvm& kvm, const kvm::Vm&, unsigned count) {
  VcpuSetup setup;
  setup.supported_ = TRY(supported_cpuid(kvm));
  setup.count_ = count;
  setup.tsc_deadline_ = kvm.extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  return setup;
}

Result<void> VcpuSetup::apply(const kvm::Vcpu& vcpu) const {
  const auto entries = vcpu_cpuid(supported_, vcpu.index(), count_, tsc_deadline_);
  kvm::Table<kvm_cpuid2, kvm_cpuid_entry2> cpuid{std::span(entries)};
  cpuid.header()->nent = static_cast<std::uint32_t>(entries.size());
  TRY(kvm::call(vcpu.fd(), KVM_SET_CPUID2, "KVM_SET_CPUID2", cpuid.header()));

  // All memory is write-back; without that Linux turns its page attribute table off.
  const std::array<kvm_msr_entry, 2> values = {
      kvm_msr_entry{kMsrMiscEnable, 0, kFastStrings},
      kvm_msr_entry{kMsrMtrrDefaultType, 0, kMtrrEnable | kWriteBack}};
  kvm::Table<kvm_msrs, kvm_msr_entry> msrs{std::span<const kvm_msr_entry>(values)};
  msrs.header()->nmsrs = values.size();
  const int set = TRY(kvm::call(vcpu.fd(), KVM_SET_MSRS, "KVM_SET_MSRS", msrs.header()));
  if (set != static_cast<int>(values.size())) {
    return fail("KVM refuses to set MSR {:#x}", values[static_cast<std::size_t>(set)].index);
  }
  return {};
}

Result<void> set_entry(const kvm::Vcpu& vcpu, const GuestMemory& memory, const EntryPoint& entry) {
  const bool long_mode = entry.kind == Entry::linux64;
  kvm_sregs sregs;
  TRY(kvm::call(vcpu.fd(), KVM_GET_SREGS, "KVM_GET_SREGS", &sregs));
  sregs.cs = segment(kCode, 0xb, true, long_mode);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(kData, 0x3, false, long_mode);
  sregs.tr = task_segment();
  const std::array<std::uint64_t, 5> gdt = {0, 0, descriptor(sregs.cs), descriptor(sregs.ds),
                                            descriptor(sregs.tr)};
  TRY(memory.write(kGdt, gdt));
  sregs.gdt.base = kGdt.value;
  sregs.gdt.limit = sizeof gdt - 1;
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
  if (long_mode) {
    TRY(write_page_tables(memory));
    sregs.cr3 = kPageTables.value;
    sregs.cr4 |= kCr4Pae;
    sregs.cr0 |= kCr0Paging;
    sregs.efer |= kEferLongModeEnable | kEferLongModeActive;
  }
  TRY(kvm::call(vcpu.fd(), KVM_SET_SREGS, "KVM_SET_SREGS", &sregs));

  kvm_regs regs{};
  regs.rflags = kRflagsReserved;
  regs.rip = entry.address.value;
  regs.rbx = kPvhStartInfo.value;  // PVH: the start info
  regs.rsi = long_mode ? kBootParams.value : 0;
  TRY(kvm::call(vcpu.fd(), KVM_SET_REGS, "KVM_SET_REGS", &regs));
  return {};
}

std::string describe_exit(const kvm::Vcpu& vcpu) {
  const kvm_run& run = vcpu.state();
  kvm_regs regs{};
  const bool known = ::ioctl(vcpu.fd(), KVM_GET_REGS, &regs) == 0;
  std::string text =
      fmt::format("vCPU {} left the guest for reason {}", vcpu.index(), run.exit_reason);
  if (run.exit_reason == KVM_EXIT_INTERNAL_ERROR) {
    text = fmt::format("vCPU {}: the host's KVM cannot emulate an instruction (suberror {})",
                       vcpu.index(), run.internal.suberror);
  } else if (run.exit_reason == KVM_EXIT_FAIL_ENTRY) {
    text = fmt::format("vCPU {}: the processor refuses the guest's state (reason {:#x})",
                       vcpu.index(), run.fail_entry.hardware_entry_failure_reason);
  }
  if (known) text += fmt::format(" at rip {:#x}", regs.rip);
  return text;
}

}  // namespace vmm::arch
