#include "src/hypervisor/session/tasks.h"

#include "src/base/caught.h"
#include "src/base/log.h"
#include "src/base/thread.h"

namespace vmm {

Tasks::~Tasks() {
  machine_.reset();
  for (auto& [number, thread] : threads_) thread.join();
}

void Tasks::in_order(Work work, Done done) {
  if (!machine_) {
    auto started = Worker::start("machine");
    if (!started) {
      log::warn("{}", started.error().message());
      return done(caught(work));
    }
    machine_ = std::move(*started);
  }
  ++in_order_;
  machine_->loop().post([this, work = std::move(work), done = std::move(done)] {
    auto result = std::make_shared<Result<void>>(caught(work));
    loop_.post([this, done, result] {
      --in_order_;
      done(std::move(*result));
    });
  });
}

void Tasks::beside(const std::string& name, Work work, Done done) {
  const auto number = ++last_;
  auto result = std::make_shared<Result<void>>();
  auto thread = start_thread(name, [this, number, result, work = std::move(work), done] {
    *result = caught(work);
    loop_.post([this, number, result, done] {
      const auto it = threads_.find(number);
      it->second.join();
      threads_.erase(it);
      done(std::move(*result));
    });
  });
  if (thread) {
    threads_.emplace(number, std::move(*thread));
  } else {
    done(std::unexpected(thread.error()));
  }
}

}  // namespace vmm
