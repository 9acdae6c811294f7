#include "src/hypervisor/machine/slots.h"

#include <fmt/format.h>

#include <charconv>

#include "src/spec/json.h"

namespace vmm {
namespace {

using State = DeviceKind::Slots::State;
using What = SlotRequest::What;

std::string names_in(const MachineConfig& config) {
  std::vector<std::string> names;
  for (const auto& kind : device_kinds()) {
    for (std::size_t i = 0; i < kind.count(config); ++i) names.push_back(name_of(kind, i));
  }
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

Result<Component> slot_in(const MachineConfig& config, const std::string& name) {
  const auto found = component_named(name);
  if (!found || found->index >= found->kind->count(config)) {
    return fail("no component '{}': the machine has {}", name, names_in(config));
  }
  if (found->kind->slots == nullptr) {
    return fail("{} is not a slot: nothing of the host is attached to it", name);
  }
  return *found;
}

bool is_of_ports(const SlotRequest& request) {
  return request.what == What::publish || request.what == What::unpublish;
}

Result<void> check(const SlotRequest& request, State state, const DeviceKind::Slots& slots) {
  if (state == State::fixed) {
    return fail("{} is not a slot, and stays as it is: {}", request.component, slots.how_to_be_one);
  }
  if (request.what == What::attach && state == State::filled) {
    return fail("something is attached to {}: detach it, or replace it", request.component);
  }
  if (request.what != What::attach && state == State::empty) {
    return fail("nothing is attached to {}", request.component);
  }
  if (request.what == What::resize && slots.prepare_resize == nullptr) {
    return fail("{} has no size", request.component);
  }
  if (is_of_ports(request) && slots.ports == nullptr) {
    return fail("{} is not a network: no port is published", request.component);
  }
  return {};
}

}  // namespace

std::optional<Component> component_named(std::string_view name) {
  for (const auto& kind : device_kinds()) {
    if (kind.number == DeviceKind::Number::one && name == kind.name) return Component{&kind, 0};
    if (kind.number != DeviceKind::Number::many || !name.starts_with(kind.name)) continue;
    const auto digits = name.substr(kind.name.size());
    std::size_t index = 0;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (code == std::errc{} && name_of(kind, index) == name) return Component{&kind, index};
  }
  return std::nullopt;
}

Result<spec::Value> attachment_in(std::string_view json) { return spec::parse_value(json); }

Result<void> apply(const SlotRequest& request, MachineConfig& config) {
  const auto [kind, index] = TRY(slot_in(config, request.component));
  TRY(check(request, kind->slots->state(config, index), *kind->slots));
  switch (request.what) {
    case What::attach:
    case What::replace:
      return kind->slots->fill(config, index, request.attachment);
    case What::detach:
      kind->slots->clear(config, index);
      break;
    case What::resize:
      break;
    case What::publish:
      return kind->slots->ports->publish(config, index, request.ports);
    case What::unpublish:
      return kind->slots->ports->unpublish(config, index, request.ports);
  }
  return {};
}

Result<std::unique_ptr<virtio::SlotChange>> prepare(const SlotRequest& request,
                                                    const MachineConfig& before,
                                                    const MachineConfig& config,
                                                    DeviceSet& devices) {
  const auto [kind, index] = TRY(slot_in(config, request.component));
  auto* device = devices.find(request.component);
  if (device == nullptr) return fail("no component '{}'", request.component);
  if (request.what == What::resize) {
    return kind->slots->prepare_resize(config, index, *device, request.size);
  }
  if (is_of_ports(request)) return kind->slots->ports->prepare(config, index, *device);
  return kind->slots->prepare(before, config, index, *device);
}

}  // namespace vmm
