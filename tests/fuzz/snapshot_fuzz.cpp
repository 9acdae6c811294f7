// The states of a snapshot, and its manifest: with the digest that it has, and with the right one.
#include <nlohmann/json.hpp>

#include <cstdlib>

#include "src/base/json.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/memory_layer.h"
#include "src/hypervisor/state/sections.h"

namespace {

using namespace vmm;

void fuzz_states(std::span<const std::byte> bytes) {
  auto sections = state::Sections::from_bytes(bytes);
  if (!sections) return;
  if (!sections->to_bytes()) std::abort();
  (void)sections->take<snapshot::MemoryLayer>("memory");
}

void fuzz_manifest(const std::string& text) {
  (void)snapshot::digest_in(text);
  (void)snapshot::parse_manifest(text);
  auto parsed = parse_ordered_json(text);
  if (!parsed || !parsed->is_object()) return;
  auto& json = *parsed;
  const auto dump = [&] {
    return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  };
  json.erase("digest");
  json["digest"] = snapshot::digest_of(dump());
  const auto manifest = snapshot::parse_manifest(dump());
  if (!manifest) return;
  if (!snapshot::parse_manifest(snapshot::to_text(*manifest))) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz_states(std::as_bytes(std::span(data, size)));
  fuzz_manifest(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
