// VcpuThread: runs one vCPU, on a thread of its own, and hands its accesses to the buses.
//
//   stopped --start()--> running <--pause(), resume()--> paused --stop()--> joined
//                           +--request_park()--> paused for good ----stop()--> joined
//
// start, pause, resume and stop are called by the machine's owner, one at a time; request_park by
// any thread, the vCPU's own among them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "src/base/result.h"
#include "src/hypervisor/bus/bus.h"
#include "src/hypervisor/kvm/kvm.h"

namespace vmm {

// How often a vCPU left the guest, by reason. Read by any thread.
struct ExitCounters {
  std::atomic<std::uint64_t> io{0};
  std::atomic<std::uint64_t> mmio{0};
  std::atomic<std::uint64_t> interrupted{0};
  std::atomic<std::uint64_t> other{0};
};

class VcpuThread {
 public:
  enum class Ending { power_off, reset, panic, triple_fault, error };
  // Called on the vCPU's thread, once at most; the vCPU then waits to be stopped.
  using OnEnd = std::function<void(Ending, std::string text)>;

  VcpuThread(std::unique_ptr<kvm::Vcpu> vcpu, const Bus& ports, const Bus& memory, OnEnd on_end);
  ~VcpuThread();

  // Is done once by the thread, before its vCPU runs for the first time. Before start().
  using FirstWork = std::function<void(kvm::Vcpu&)>;
  void set_first_work(FirstWork work) { first_work_ = std::move(work); }
  // Starts the thread, paused.
  Result<void> start();
  // pause and stop come in two steps, so that many vCPUs leave the guest side by side: first
  // request_* of all, then wait_* of each.
  void request_pause() { request(State::paused); }
  void wait_paused();
  void resume();
  // The guest has ended: the vCPU finishes the access that it is in and never runs again.
  void request_park() { request(State::parked); }
  void request_stop() { request(State::stopped); }
  // False when the thread did not end within a minute; it is named in the log.
  bool join();

  kvm::Vcpu& vcpu() { return *vcpu_; }
  const ExitCounters& counters() const { return counters_; }

 private:
  enum class State { paused, running, parked, stopped };
  void request(State wanted);
  void main();
  // False: this vCPU runs no more.
  bool run_until_interrupted();
  void end(kvm::Exit exit);
  void serve_io();
  void serve_mmio();
  // Waits while paused; false when stopped.
  bool wait_to_run();

  std::unique_ptr<kvm::Vcpu> vcpu_;
  const Bus& ports_;
  const Bus& memory_;
  const OnEnd on_end_;
  FirstWork first_work_;
  ExitCounters counters_;

  std::mutex mutex_;  // guards wanted_, now_, ended_
  std::condition_variable changed_;
  State wanted_ = State::paused;
  State now_ = State::paused;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace vmm
