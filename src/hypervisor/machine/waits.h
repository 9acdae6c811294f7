// Waits: what a machine waits for at this moment, so that another thread can end the process when a
// vCPU or a device hangs, and name it.
//
//   { const Waits::Scope waiting(waits, "vCPU 0"); vcpu->wait_paused(); }
//   ... on another thread ...
//   if (const auto what = waits.longer_than(30s); !what.empty()) ...
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <utility>

namespace vmm {

class Waits {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~Waits() = default;

  class Scope {
   public:
    Scope(Waits& waits, const std::string& what) : waits_(waits) {
      waits_.set(what);
      waits_.begun(what);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { waits_.set({}); }

   private:
    Waits& waits_;
  };

  // Empty: nothing has been waited for that long. Any thread.
  std::string longer_than(Clock::duration patience) const {
    std::lock_guard lock(mutex_);
    return !what_.empty() && Clock::now() - since_ > patience ? what_ : std::string();
  }

 private:
  // By the thread that waits from now on. A test may hang here.
  virtual void begun(const std::string& /*what*/) {}
  void set(std::string what) {
    std::lock_guard lock(mutex_);
    what_ = std::move(what);
    since_ = Clock::now();
  }

  mutable std::mutex mutex_;  // guards all below
  std::string what_;
  Clock::time_point since_;
};

}  // namespace vmm
