#include <algorithm>
#include <array>
#include <cstring>

#include "arch/state.h"
#include "src/base/log.h"

namespace vmm::arch {
namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;
constexpr std::size_t kMaxCpuid = 256;
constexpr std::size_t kMaxMsrs = 4096;  // KVM lists some hundreds
constexpr std::size_t kMinXsave = sizeof(kvm_xsave);
// Two clocks that differ by less are the same within what calibration can tell.
constexpr std::uint32_t kTscTolerance = 1000;  // one part of so many

std::size_t xsave_size(const kvm::Vm& vm) {
  const int size = ::ioctl(vm.fd(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  return size > static_cast<int>(kMinXsave) ? static_cast<std::size_t>(size) : kMinXsave;
}

Result<std::vector<std::uint32_t>> msr_indices(const kvm::Kvm& kvm) {
  // With no room the kernel says E2BIG and how many there are.
  kvm_msr_list none{};
  (void)::ioctl(kvm.fd(), KVM_GET_MSR_INDEX_LIST, &none);
  kvm::Table<kvm_msr_list, std::uint32_t> list(none.nmsrs);
  list.header()->nmsrs = none.nmsrs;
  TRY(kvm::call(kvm.fd(), KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", list.header()));
  return std::vector<std::uint32_t>(list.entries(), list.entries() + list.header()->nmsrs);
}

// KVM stops at the first one that this guest does not have: it is left out, the rest goes on.
Result<std::vector<MsrState>> read_msrs(const kvm::Vcpu& vcpu,
                                        std::span<const std::uint32_t> indices) {
  std::vector<MsrState> result;
  while (!indices.empty()) {
    kvm::Table<kvm_msrs, kvm_msr_entry> table(indices.size());
    table.header()->nmsrs = static_cast<std::uint32_t>(indices.size());
    for (std::size_t i = 0; i < indices.size(); ++i) table.entries()[i].index = indices[i];
    const auto got = static_cast<std::size_t>(
        TRY(kvm::call(vcpu.fd(), KVM_GET_MSRS, "KVM_GET_MSRS", table.header())));
    for (std::size_t i = 0; i < got; ++i) {
      result.push_back({table.entries()[i].index, table.entries()[i].data});
    }
    indices = indices.subspan(std::min(got + 1, indices.size()));
  }
  return result;
}

Result<void> write_msrs(const kvm::Vcpu& vcpu, std::span<const MsrState> msrs) {
  while (!msrs.empty()) {
    kvm::Table<kvm_msrs, kvm_msr_entry> table(msrs.size());
    table.header()->nmsrs = static_cast<std::uint32_t>(msrs.size());
    for (std::size_t i = 0; i < msrs.size(); ++i) {
      table.entries()[i] = {.index = msrs[i].index, .data = msrs[i].value};
    }
    const auto set = static_cast<std::size_t>(
        TRY(kvm::call(vcpu.fd(), KVM_SET_MSRS, "KVM_SET_MSRS", table.header())));
    if (set == msrs.size()) return {};
    // One that can be read and not written is no loss while it has its value anyway.
    const std::array<std::uint32_t, 1> index = {msrs[set].index};
    const auto now = TRY(read_msrs(vcpu, index));
    if (now.empty() || now[0].value != msrs[set].value) {
      return fail("this host's KVM refuses to set MSR {:#x} to {:#x}", msrs[set].index,
                  msrs[set].value);
    }
    msrs = msrs.subspan(set + 1);
  }
  return {};
}

kvm_device_attr tsc_offset_attribute(std::uint64_t& value) {
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uint64_t>(&value);
  return attribute;
}

Result<std::vector<std::byte>> read_nested(const kvm::Kvm& kvm, const kvm::Vcpu& vcpu) {
  const int size = kvm.extension(KVM_CAP_NESTED_STATE);
  if (size <= 0) return std::vector<std::byte>();
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  auto* header = reinterpret_cast<kvm_nested_state*>(bytes.data());
  header->size = static_cast<std::uint32_t>(size);
  TRY(kvm::call(vcpu.fd(), KVM_GET_NESTED_STATE, "KVM_GET_NESTED_STATE", header));
  bytes.resize(std::min<std::size_t>(header->size, bytes.size()));
  return bytes;
}

// KVM reads as many bytes as the header says, whatever lies behind the state.
Result<void> restore_nested(const kvm::Vcpu& vcpu, std::span<const std::byte> bytes) {
  if (bytes.empty()) return {};
  kvm_nested_state header{};
  const std::size_t most = bytes.size();
  if (most >= sizeof header) std::memcpy(&header, bytes.data(), sizeof header);
  if (header.size < sizeof header || header.size > most) {
    return fail("{} bytes of nested virtualization state, whose header says {}", most, header.size);
  }
  TRY(kvm::call(vcpu.fd(), KVM_SET_NESTED_STATE, "KVM_SET_NESTED_STATE", bytes.data()));
  return {};
}

Result<void> set_tsc_frequency(const kvm::Vcpu& vcpu, std::uint32_t wanted) {
  const int now = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
  if (now <= 0 || wanted == 0) return {};
  const auto khz = static_cast<std::uint32_t>(now);
  const std::uint32_t difference = khz > wanted ? khz - wanted : wanted - khz;
  if (difference <= wanted / kTscTolerance) return {};
  if (::ioctl(vcpu.fd(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(wanted)) == 0) return {};
  return fail(
      "the guest counts time by a TSC of {} kHz, this host's has {} kHz and its KVM cannot scale "
      "it",
      wanted, khz);
}

// Where the guest's TSC is to be, and how it gets there: by an offset that all vCPUs share when KVM
// tells its own TSC together with the time, else by writing the register.
Result<void> set_tsc(const kvm::Vcpu& vcpu, const VcpuState& state, std::uint64_t saved_tsc,
                     const ClockShift& shift) {
  __extension__ using Wide = unsigned __int128;
  const auto passed =
      static_cast<std::uint64_t>(Wide{shift.elapsed_ns} * state.tsc_khz / 1'000'000);
  if (shift.exact && state.has_tsc_offset) {
    std::uint64_t offset =
        shift.saved_host_tsc + state.tsc_offset + passed - shift.host_tsc;  // modulo 2^64
    const auto attribute = tsc_offset_attribute(offset);
    TRY(kvm::call(vcpu.fd(), KVM_SET_DEVICE_ATTR, "KVM_VCPU_TSC_OFFSET", &attribute));
    return {};
  }
  const std::array<MsrState, 1> tsc = {MsrState{kMsrTsc, saved_tsc + passed}};
  return write_msrs(vcpu, tsc);
}

}  // namespace

Result<VcpuState> save_vcpu(const kvm::Kvm& kvm, const kvm::Vm& vm, const kvm::Vcpu& vcpu) {
  const int fd = vcpu.fd();
  VcpuState state;
  // First, as reading it may change the local APIC's state.
  TRY(kvm::call(fd, KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state.mp_state));
  TRY(kvm::call(fd, KVM_GET_REGS, "KVM_GET_REGS", &state.regs));
  TRY(kvm::call(fd, KVM_GET_SREGS, "KVM_GET_SREGS", &state.sregs));
  state.xsave.resize(xsave_size(vm));
  if (state.xsave.size() > kMinXsave) {
    TRY(kvm::call(fd, KVM_GET_XSAVE2, "KVM_GET_XSAVE2", state.xsave.data()));
  } else {
    TRY(kvm::call(fd, KVM_GET_XSAVE, "KVM_GET_XSAVE", state.xsave.data()));
  }
  TRY(kvm::call(fd, KVM_GET_XCRS, "KVM_GET_XCRS", &state.xcrs));
  TRY(kvm::call(fd, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &state.debugregs));
  TRY(kvm::call(fd, KVM_GET_LAPIC, "KVM_GET_LAPIC", &state.lapic));
  if (const int khz = ::ioctl(fd, KVM_GET_TSC_KHZ, 0); khz > 0) {
    state.tsc_khz = static_cast<std::uint32_t>(khz);
  }
  kvm::Table<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuid);
  cpuid.header()->nent = kMaxCpuid;
  TRY(kvm::call(fd, KVM_GET_CPUID2, "KVM_GET_CPUID2", cpuid.header()));
  for (std::uint32_t i = 0; i < cpuid.header()->nent; ++i) {
    state.cpuid.push_back({cpuid.entries()[i]});
  }
  const auto attribute = tsc_offset_attribute(state.tsc_offset);
  state.has_tsc_offset = ::ioctl(fd, KVM_GET_DEVICE_ATTR, &attribute) == 0;
  state.msrs = TRY(read_msrs(vcpu, TRY(msr_indices(kvm))));
  state.nested = TRY(read_nested(kvm, vcpu));
  // Last, as everything above may still queue or take back an event.
  TRY(kvm::call(fd, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &state.events));
  return state;
}

Result<void> restore_model(const kvm::Vcpu& vcpu, const VcpuState& state) {
  if (state.cpuid.size() > kMaxCpuid) {
    return fail("{} entries of CPUID: expected at most {}", state.cpuid.size(), kMaxCpuid);
  }
  std::vector<kvm_cpuid_entry2> entries;
  for (const auto& entry : state.cpuid) entries.push_back(entry.entry);
  kvm::Table<kvm_cpuid2, kvm_cpuid_entry2> cpuid{std::span<const kvm_cpuid_entry2>(entries)};
  cpuid.header()->nent = static_cast<std::uint32_t>(entries.size());
  // Everything else is checked against it.
  TRY(kvm::call(vcpu.fd(), KVM_SET_CPUID2, "KVM_SET_CPUID2", cpuid.header()));
  return {};
}

Result<void> restore_vcpu(const kvm::Vm& vm, const kvm::Vcpu& vcpu, const VcpuState& state,
                          const ClockShift& shift) {
  const int fd = vcpu.fd();
  TRY(set_tsc_frequency(vcpu, state.tsc_khz));
  TRY(kvm::call(fd, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state.mp_state));
  // Before the events, as it clears exceptions.
  TRY(kvm::call(fd, KVM_SET_REGS, "KVM_SET_REGS", &state.regs));
  // Before the local APIC: it sets its base.
  TRY(kvm::call(fd, KVM_SET_SREGS, "KVM_SET_SREGS", &state.sregs));
  const std::size_t room = xsave_size(vm);
  if (state.xsave.size() > room) {
    return fail("{} bytes of vector state, this host's KVM keeps {}", state.xsave.size(), room);
  }
  auto xsave = state.xsave;
  xsave.resize(room);
  TRY(kvm::call(fd, KVM_SET_XSAVE, "KVM_SET_XSAVE", xsave.data()));
  TRY(kvm::call(fd, KVM_SET_XCRS, "KVM_SET_XCRS", &state.xcrs));
  TRY(kvm::call(fd, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", &state.debugregs));
  TRY(kvm::call(fd, KVM_SET_LAPIC, "KVM_SET_LAPIC", &state.lapic));

  if (state.msrs.size() > kMaxMsrs) {
    return fail("{} MSRs: expected at most {}", state.msrs.size(), kMaxMsrs);
  }
  std::vector<MsrState> msrs;
  std::uint64_t tsc = 0;
  std::uint64_t deadline = 0;
  bool has_deadline = false;
  for (const auto& msr : state.msrs) {
    if (msr.index == kMsrTsc) {
      tsc = msr.value;
    } else if (msr.index == kMsrTscDeadline) {
      deadline = msr.value;
      has_deadline = true;
    } else {
      msrs.push_back(msr);
    }
  }
  TRY(set_tsc(vcpu, state, tsc, shift));
  // The timer behind the clock and the local APIC that it counts by. A deadline of 0 may be one
  // that passed and whose interrupt is nowhere in the state: it comes (once too often, at worst).
  if (has_deadline) msrs.push_back({kMsrTscDeadline, deadline != 0 ? deadline : tsc});
  TRY(write_msrs(vcpu, msrs));
  TRY(restore_nested(vcpu, state.nested));
  TRY(kvm::call(fd, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &state.events));
  return {};
}

void announce_pause(const kvm::Vcpu& vcpu) {
  // EINVAL: the guest does not use kvmclock.
  (void)::ioctl(vcpu.fd(), KVM_KVMCLOCK_CTRL, 0);
}

}  // namespace vmm::arch
