// A machine whose guest is a loop of a few instructions. The vCPUs are started by hand, as a KVM
// that boots no kernel (Kvm::check_runs_guests) still runs these.
#include "src/hypervisor/machine/machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <future>

#include "src/hypervisor/machine/kernel_for_test.h"

namespace vmm {
namespace {

class MachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto kvm = kvm::Kvm::open(); !kvm) GTEST_SKIP() << kvm.error().message();
    std::string pattern = "/tmp/vmm-machine-test-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    machine_.reset();
    if (!folder_.empty()) {
      ::unlink((folder_ + "/kernel").c_str());
      ::rmdir(folder_.c_str());
    }
  }

  void create(const std::vector<std::uint8_t>& code) {
    test::write_kernel(folder_ + "/kernel", code);
    MachineConfig config;
    config.kernel = folder_ + "/kernel";
    config.memory = 64u << 20;
    auto machine = Machine::create(config, {.on_end = [this](End how, std::string) {
                                     ends_.push_back(how);
                                     ended_.set_value();
                                   }});
    ASSERT_TRUE(machine) << machine.error().message();
    machine_ = std::move(*machine);
  }
  VcpuThread& vcpu() { return *machine_->vcpus()[0]; }
  // Whether it waits within ten seconds; ended by force where not.
  bool pauses_by_itself() {
    auto paused = std::async(std::launch::async, [this] { vcpu().wait_paused(); });
    const bool in_time = paused.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    if (!in_time) vcpu().request_stop();
    return in_time;
  }

  std::string folder_;
  std::unique_ptr<Machine> machine_;
  std::promise<void> ended_;  // a second end would throw
  std::vector<End> ends_;
};

TEST_F(MachineTest, TheFirstEndCountsAndNoVcpuGoesOn) {
  create({0xb0, 0xfe,    // mov al, 0xfe
          0xe6, 0x64,    // out 0x64, al: reset
          0xeb, 0xfc});  // again
  ASSERT_TRUE(vcpu().start());
  vcpu().resume();
  ASSERT_EQ(ended_.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  ASSERT_TRUE(pauses_by_itself());
  EXPECT_EQ(vcpu().counters().io, 1u);
  // What the owner asks for until it hears of the end changes nothing.
  vcpu().resume();
  vcpu().request_pause();
  vcpu().wait_paused();
  EXPECT_EQ(vcpu().counters().io, 1u);
  EXPECT_EQ(ends_, std::vector<End>{End::reset});
  machine_->suspend();
  const auto saved = machine_->save();
  ASSERT_FALSE(saved);
  EXPECT_EQ(saved.error().message(), "the guest has ended meanwhile");
}

// Throws at each access.
class ThrowingPort : public IoHandler {
 public:
  std::uint64_t read(std::uint64_t, unsigned) override { throw std::bad_alloc(); }
  void write(std::uint64_t, unsigned, std::uint64_t) override { throw std::bad_alloc(); }
};

TEST(VcpuThread, WhatADeviceThrowsIsTheEndOfTheMachine) {
  const auto kvm = kvm::Kvm::open();
  if (!kvm) GTEST_SKIP() << kvm.error().message();
  constexpr std::array kRange = {MemoryRange{GuestAddress{0xffff'0000}, 0x1'0000}};
  // Where a processor begins: out 0x64, al.
  const auto memory = std::move(GuestMemory::create(kRange).value());
  constexpr std::array<std::uint8_t, 2> kCode = {0xe6, 0x64};
  ASSERT_TRUE(memory->write(GuestAddress{0xffff'fff0}, kCode));
  const auto vm = std::move(kvm->create_vm(0).value());
  ASSERT_TRUE(vm->add_memory(*memory));
  ThrowingPort port;
  Bus ports, mmio;
  ASSERT_TRUE(ports.add(0x64, 1, port, "throws"));
  std::promise<std::string> ended;
  VcpuThread vcpu(std::move(vm->create_vcpu(0).value()), ports, mmio,
                  [&](VcpuThread::Ending how, std::string text) {
                    EXPECT_EQ(how, VcpuThread::Ending::error);
                    ended.set_value(std::move(text));
                  });
  ASSERT_TRUE(vcpu.start());
  vcpu.resume();
  auto text = ended.get_future();
  ASSERT_EQ(text.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(text.get(), "vCPU 0: the host has no memory left for this machine");
  vcpu.wait_paused();
}

}  // namespace
}  // namespace vmm
