#include <gtest/gtest.h>

#include "arch/address_plan.h"
#include "arch/cpuid.h"
#include "arch/interrupts.h"
#include "arch/vcpu.h"

namespace vmm::arch {
namespace {

kvm_cpuid_entry2 leaf(std::uint32_t function, std::uint32_t index = 0) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  return entry;
}

const kvm_cpuid_entry2* find(const std::vector<kvm_cpuid_entry2>& entries, std::uint32_t function,
                             std::uint32_t index = 0) {
  for (const auto& entry : entries) {
    if (entry.function == function && entry.index == index) return &entry;
  }
  return nullptr;
}

TEST(Cpuid, TellsTheTopology) {
  auto caches = leaf(4, 3);
  caches.eax = 3 | 3 << 5 | 0x3ff << 14;  // a unified third level
  const auto entries =
      vcpu_cpuid({leaf(1), caches, leaf(0xb), leaf(0xb, 1), leaf(0x1f)}, 5, 6, true);
  const auto* one = find(entries, 1);
  ASSERT_TRUE(one);
  EXPECT_EQ(one->ebx >> 24, 5u);
  EXPECT_EQ((one->ebx >> 16) & 0xff, 8u);
  EXPECT_TRUE(one->ecx & (1u << 31));
  EXPECT_TRUE(one->ecx & (1u << 24));
  EXPECT_TRUE(one->edx & (1u << 28));
  EXPECT_EQ((find(entries, 4, 3)->eax >> 14) & 0xfff, 7u);
  EXPECT_FALSE(find(entries, 0x1f));
  EXPECT_EQ(find(entries, 0xb, 0)->ebx, 1u);
  EXPECT_EQ(find(entries, 0xb, 1)->eax, 3u);
  EXPECT_EQ(find(entries, 0xb, 1)->ebx, 6u);
  EXPECT_EQ(find(entries, 0xb, 1)->edx, 5u);
  EXPECT_EQ(find(entries, 0xb, 2)->ecx, 2u) << "ends the list";
}

TEST(Cpuid, OneProcessorHasNoThreads) {
  const auto entries = vcpu_cpuid({leaf(1)}, 0, 1, false);
  EXPECT_FALSE(find(entries, 1)->edx & (1u << 28));
  EXPECT_FALSE(find(entries, 1)->ecx & (1u << 24));
  EXPECT_EQ(find(entries, 0xb, 1)->eax, 0u);
}

TEST(AddressPlan, SplitsMemoryAroundTheGap) {
  EXPECT_EQ(memory_ranges(2ull << 30).size(), 1u);
  EXPECT_EQ(memory_ranges(kGapStart).size(), 1u);
  const auto ranges = memory_ranges(6ull << 30);
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0].size, kGapStart);
  EXPECT_EQ(ranges[1].base.value, 4ull << 30);
  EXPECT_EQ(ranges[0].size + ranges[1].size, 6ull << 30);
}

// All of the machine's ioctls, on a real KVM; it need not run a guest.
TEST(Kvm, TakesAMachine) {
  auto kvm = kvm::Kvm::open();
  if (!kvm) GTEST_SKIP() << kvm.error().message();
  auto vm = std::move(kvm->create_vm(vm_type(*kvm, 64u << 20).value()).value());
  ASSERT_TRUE(create_interrupt_controller(*vm));
  auto memory = std::move(GuestMemory::create(memory_ranges(64u << 20)).value());
  ASSERT_TRUE(vm->add_memory(*memory));
  auto setup = VcpuSetup::create(*kvm, *vm, 2);
  ASSERT_TRUE(setup) << setup.error().message();
  auto vcpu = std::move(vm->create_vcpu(0).value());
  const auto applied = setup->apply(*vcpu);
  ASSERT_TRUE(applied) << applied.error().message();
  for (const auto kind : {Entry::pvh, Entry::linux64}) {
    const auto entered = set_entry(*vcpu, *memory, {kind, GuestAddress{0x100000}});
    EXPECT_TRUE(entered) << entered.error().message();
  }
  auto event = std::move(EventFd::create().value());
  EXPECT_TRUE(vm->attach(GuestAddress{0xc0003000}, event));
  vm->detach(GuestAddress{0xc0003000}, event);
  auto route = std::move(vm->create_route().value());
  EXPECT_TRUE(route->set_message({0xfee00000, 0x41}));
  EXPECT_TRUE(route->set_enabled(true));
  EXPECT_TRUE(route->set_enabled(false));
}

// Two writes of the address, then a read of the data port.
TEST(Kvm, CollectsWritesOfPorts) {
  auto kvm = kvm::Kvm::open();
  if (!kvm) GTEST_SKIP() << kvm.error().message();
  if (const auto runs = kvm::Kvm::check_runs_guests(); !runs) {
    GTEST_SKIP() << runs.error().message();
  }
  auto vm = std::move(kvm->create_vm(vm_type(*kvm, 64u << 20).value()).value());
  auto memory = std::move(GuestMemory::create(memory_ranges(64u << 20)).value());
  ASSERT_TRUE(vm->add_memory(*memory));
  vm->collect_port_writes(0xcf8, 4);
  auto vcpu = std::move(vm->create_vcpu(0).value());
  constexpr std::array<std::uint8_t, 25> kCode = {
      0xba, 0xf8, 0x0c,                    // mov dx, 0xcf8
      0x66, 0xb8, 0x04, 0x00, 0x00, 0x80,  // mov eax, 0x80000004
      0x66, 0xef,                          // out dx, eax
      0x66, 0xb8, 0x08, 0x00, 0x00, 0x80,  // mov eax, 0x80000008
      0x66, 0xef,                          // out dx, eax
      0xba, 0xfc, 0x0c,                    // mov dx, 0xcfc
      0x66, 0xed,                          // in eax, dx
      0xf4};
  ASSERT_TRUE(memory->write(GuestAddress{0x1000}, kCode));
  kvm_sregs sregs;
  ASSERT_EQ(::ioctl(vcpu->fd(), KVM_GET_SREGS, &sregs), 0);
  sregs.cs.base = sregs.cs.selector = 0;
  ASSERT_EQ(::ioctl(vcpu->fd(), KVM_SET_SREGS, &sregs), 0);
  kvm_regs regs{};
  regs.rip = 0x1000;
  regs.rflags = 2;
  ASSERT_EQ(::ioctl(vcpu->fd(), KVM_SET_REGS, &regs), 0);

  std::vector<std::pair<std::uint64_t, std::uint64_t>> writes;
  const auto collect = [&](std::uint64_t port, unsigned size, std::uint64_t value) {
    EXPECT_EQ(size, 4u);
    writes.emplace_back(port, value);
  };
  const auto exit = vcpu->run();
  ASSERT_TRUE(exit) << exit.error().message();
  ASSERT_EQ(*exit, kvm::Exit::io);
  EXPECT_EQ(vcpu->state().io.port, 0xcfc);
  vcpu->serve_collected(collect);
  using Writes = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
  EXPECT_EQ(writes, (Writes{{0xcf8, 0x80000004}, {0xcf8, 0x80000008}}));
  vcpu->serve_collected(collect);
  EXPECT_EQ(writes.size(), 2u);
}

TEST(Kvm, SaysWhyThereIsNone) {
  const auto missing = kvm::Kvm::open("/nowhere/kvm");
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("there is no /nowhere/kvm"), std::string::npos);
  const auto other = kvm::Kvm::open("/dev/null");
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message().find("not a KVM device"), std::string::npos);
}

}  // namespace
}  // namespace vmm::arch
