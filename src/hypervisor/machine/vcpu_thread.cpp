#include "src/hypervisor/machine/vcpu_thread.h"

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <utility>

#include "arch/vcpu.h"
#include "src/base/log.h"
#include "src/base/thread.h"

namespace vmm {
namespace {

// Longer than the owner waits before it ends the process.
constexpr auto kJoinDeadline = std::chrono::seconds(60);

// Gets a vCPU's thread out of KVM_RUN; the handler itself has nothing to do.
int kick_signal() { return SIGRTMIN; }

void install_kick_handler() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  sigaction(kick_signal(), &action, nullptr);
}

}  // namespace

VcpuThread::VcpuThread(std::unique_ptr<kvm::Vcpu> vcpu, const Bus& ports, const Bus& memory,
                       OnEnd on_end)
    : vcpu_(std::move(vcpu)), ports_(ports), memory_(memory), on_end_(std::move(on_end)) {}

VcpuThread::~VcpuThread() {
  if (!thread_.joinable()) return;
  request_stop();
  (void)join();  // named in the log when it hangs
}

Result<void> VcpuThread::start() {
  install_kick_handler();
  thread_ =
      TRY(start_thread(fmt::format("vcpu{}", vcpu_->index()), [this] { main(); }, kick_signal()));
  return {};
}

void VcpuThread::request(State wanted) {
  std::lock_guard lock(mutex_);
  if (wanted_ == State::stopped || ended_) return;
  if (wanted_ == State::parked && wanted != State::stopped) return;
  wanted_ = wanted;
  // Both are needed: the signal ends a KVM_RUN that goes on, the flag one that is about to begin.
  vcpu_->set_immediate_exit(true);
  if (thread_.joinable()) pthread_kill(thread_.native_handle(), kick_signal());
  changed_.notify_all();
}

void VcpuThread::wait_paused() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_ || now_ != State::running; });
}

void VcpuThread::resume() {
  std::lock_guard lock(mutex_);
  if (wanted_ != State::paused || ended_) return;
  wanted_ = State::running;
  vcpu_->set_immediate_exit(false);
  changed_.notify_all();
}

bool VcpuThread::join() {
  if (!thread_.joinable()) return true;  // never started
  {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kJoinDeadline, [this] { return ended_; })) {
      // check: unlimited-log allowed, once a vCPU, at its end
      log::error("vCPU {} does not stop", vcpu_->index());
      return false;
    }
  }
  thread_.join();
  return true;
}

void VcpuThread::main() {
  const auto ran = caught([this] {
    while (wait_to_run()) {
      if (const auto work = std::exchange(first_work_, {})) work(*vcpu_);
      if (!run_until_interrupted()) break;
    }
  });
  if (!ran) {
    on_end_(Ending::error, fmt::format("vCPU {}: {}", vcpu_->index(), ran.error().message()));
  }
  std::lock_guard lock(mutex_);
  now_ = State::stopped;
  ended_ = true;
  changed_.notify_all();
}

bool VcpuThread::run_until_interrupted() {
  for (;;) {
    const auto exit = vcpu_->run();
    vcpu_->serve_collected([this](std::uint64_t port, unsigned size, std::uint64_t value) {
      ports_.write(port, size, value);
    });
    if (!exit) {
      on_end_(Ending::error, exit.error().message());
      return false;
    }
    switch (*exit) {
      case kvm::Exit::io:
        counters_.io.fetch_add(1, std::memory_order_relaxed);
        serve_io();
        break;
      case kvm::Exit::mmio:
        counters_.mmio.fetch_add(1, std::memory_order_relaxed);
        serve_mmio();
        break;
      case kvm::Exit::interrupted:
        // Only here may the vCPU pause: KVM_RUN has then taken in the result of the last access
        // (api.rst, 5: "re-enter the guest with immediate_exit set" before reading state).
        counters_.interrupted.fetch_add(1, std::memory_order_relaxed);
        return true;
      case kvm::Exit::halt:
        break;
      default:
        end(*exit);
        return false;
    }
  }
}

void VcpuThread::end(kvm::Exit exit) {
  counters_.other.fetch_add(1, std::memory_order_relaxed);
  switch (exit) {
    case kvm::Exit::power_off:
      return on_end_(Ending::power_off, "the guest powered off");
    case kvm::Exit::reset:
      return on_end_(Ending::reset, "the guest reset the machine");
    case kvm::Exit::crash:
      return on_end_(Ending::panic, "the guest's kernel panicked");
    case kvm::Exit::shutdown:
      return on_end_(Ending::triple_fault, fmt::format("vCPU {}: triple fault", vcpu_->index()));
    default:
      return on_end_(Ending::error, arch::describe_exit(*vcpu_));
  }
}

bool VcpuThread::wait_to_run() {
  std::unique_lock lock(mutex_);
  while (wanted_ == State::paused || wanted_ == State::parked) {
    now_ = State::paused;
    changed_.notify_all();
    changed_.wait(lock);
  }
  now_ = wanted_;
  return wanted_ == State::running;
}

void VcpuThread::serve_io() {
  const auto& io = vcpu_->state().io;
  std::byte* data = vcpu_->io_data();
  // String instructions move `count` items at once.
  for (std::uint32_t i = 0; i < io.count; ++i, data += io.size) {
    std::uint64_t value = 0;
    if (io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, data, io.size);
      ports_.write(io.port, io.size, value);
    } else {
      value = ports_.read(io.port, io.size);
      std::memcpy(data, &value, io.size);
    }
    log::trace("vCPU {} port {} {:#x}/{} {:#x}", vcpu_->index(),
               io.direction == KVM_EXIT_IO_OUT ? "write" : "read", io.port, io.size, value);
  }
}

void VcpuThread::serve_mmio() {
  auto& mmio = vcpu_->state().mmio;
  std::uint64_t value = 0;
  if (mmio.is_write != 0) {
    std::memcpy(&value, mmio.data, mmio.len);
    memory_.write(mmio.phys_addr, mmio.len, value);
  } else {
    value = memory_.read(mmio.phys_addr, mmio.len);
    std::memcpy(mmio.data, &value, mmio.len);
  }
  log::trace("vCPU {} memory {} {:#x}/{} {:#x}", vcpu_->index(),
             mmio.is_write != 0 ? "write" : "read", mmio.phys_addr, mmio.len, value);
}

}  // namespace vmm
