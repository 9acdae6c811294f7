#include "src/hypervisor/session/observer.h"

#include <nlohmann/json.hpp>

#include "src/base/json.h"

namespace vmm {
namespace {

using nlohmann::json;

// What a guest has left goes up and down all the time.
constexpr std::uint64_t kMemoryStep = 16u << 20;

std::uint64_t number(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_unsigned() ? it->get<std::uint64_t>() : 0;
}

protocol::GuestMemory memory_of(const json& device) {
  protocol::GuestMemory memory{.target_bytes = number(device, "target_bytes"),
                               .actual_bytes = number(device, "actual_bytes"),
                               .available_bytes = {}};
  const auto guest = device.find("guest");
  if (guest != device.end() && guest->is_object() && guest->contains("available_memory")) {
    memory.available_bytes = number(*guest, "available_memory");
  }
  return memory;
}

bool differs(const protocol::GuestMemory& a, const protocol::GuestMemory& b) {
  const auto left = a.available_bytes.value_or(0), right = b.available_bytes.value_or(0);
  return a.target_bytes != b.target_bytes || a.actual_bytes != b.actual_bytes ||
         std::max(left, right) - std::min(left, right) >= kMemoryStep;
}

}  // namespace

std::vector<protocol::Event> Observer::look(std::string_view metrics) {
  std::vector<protocol::Event> events;
  const auto all = parse_json(metrics);
  if (!all || !all->is_object() || !all->contains("devices")) return events;
  for (const auto& [name, device] : all->at("devices").items()) {
    if (!device.is_object()) continue;
    if (const auto up = device.find("link_up"); up != device.end() && up->is_boolean()) {
      const bool is_up = up->get<bool>();
      const auto [link, is_new] = links_.emplace(name, is_up);
      const bool was_up = std::exchange(link->second, is_up);
      if (!is_new && was_up && !is_up) events.emplace_back(protocol::NetworkLost{name});
      if (!is_new && !was_up && is_up) events.emplace_back(protocol::NetworkBack{name});
    }
    if (device.contains("actual_bytes")) {
      const auto memory = memory_of(device);
      if (memory_ && !differs(*memory_, memory)) continue;
      memory_ = memory;
      events.emplace_back(memory);
    }
  }
  return events;
}

}  // namespace vmm
