// Observer: tells from two looks at a machine's metrics what happened in between, where nothing in
// the machine says so by itself: a network lost or back, what the guest's memory comes to.
//
//   for (const auto& event : observer.look(metrics_json(machine))) publish(event);
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/protocol/control.h"

namespace vmm {

class Observer {
 public:
  // Of a device it knows what its metrics say: `link_up`, or the bytes of a balloon.
  std::vector<protocol::Event> look(std::string_view metrics);

 private:
  std::map<std::string, bool> links_;  // by device
  std::optional<protocol::GuestMemory> memory_;
};

}  // namespace vmm
