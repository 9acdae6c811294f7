// What a component of a machine is connected to, changed while the machine is there.
//
//   const SlotRequest request{.what = SlotRequest::What::attach, .component = "blk1", ...};
//   const auto before = config;
//   TRY(apply(request, config));                             // what the machine is after it
//   auto change = TRY(prepare(request, before, config, devices));    // beside: opens files
//   TRY(devices.change(request.component, *change));         // by the machine's owner
//
// Errors are sentences for whoever asked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "devices/virtio/slot.h"
#include "src/base/result.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/hypervisor/machine/device_set.h"
#include "src/spec/value.h"

namespace vmm {

struct SlotRequest {
  enum class What : std::uint8_t { attach, replace, detach, resize, publish, unpublish };
  What what = What::attach;
  std::string component;   // "blk1"
  spec::Value attachment;  // attach and replace: an object, or the words of the option
  std::uint64_t size = 0;  // resize: bytes
  // publish: in the words of the option; unpublish: the host's end of each.
  std::vector<std::string> ports = {};
};

// Of a request, in JSON.
Result<spec::Value> attachment_in(std::string_view json);

struct Component {
  const DeviceKind* kind;
  std::size_t index;
};
// By its name, whether a machine has it or not; nothing: no kind is called so.
std::optional<Component> component_named(std::string_view name);

// No file is looked at.
Result<void> apply(const SlotRequest& request, MachineConfig& config);
// `config` is what apply() made of `before`. Opens what it names; any thread, as long as the
// devices are there, one change of a component at a time.
Result<std::unique_ptr<virtio::SlotChange>> prepare(const SlotRequest& request,
                                                    const MachineConfig& before,
                                                    const MachineConfig& config,
                                                    DeviceSet& devices);

}  // namespace vmm
