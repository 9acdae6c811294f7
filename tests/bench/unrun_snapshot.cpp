// Makes the snapshot of a machine that has not run yet, one vCPU and 256 MiB: what a restore costs
// up to the first KVM_RUN is measured with it (tools/bench start) where KVM makes machines but runs
// no stock guest, too.
//
//   unrun_snapshot DIRECTORY KERNEL INITRD
#include <cstdio>

#include "arch/cpuid.h"
#include "arch/state.h"
#include "src/cli/config/given_machine.h"
#include "src/hypervisor/machine/machine.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/memory_layer.h"
#include "src/hypervisor/snapshot/reader.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm {
namespace {

// A KVM may tell of more than it was given (kvm_pvm does), which no host would be let restore.
Result<void> keep_given_cpuid(state::Sections& sections) {
  auto vcpu = TRY(sections.take<arch::VcpuState>("vcpu0"));
  const auto kvm = TRY(kvm::Kvm::open());
  vcpu.cpuid.clear();
  for (const auto& entry : arch::vcpu_cpuid(TRY(arch::supported_cpuid(kvm)), 0, 1, true)) {
    vcpu.cpuid.push_back({entry});
  }
  return sections.replace("vcpu0", vcpu);
}

Result<void> make(const std::string& directory, const std::string& kernel,
                  const std::string& initrd) {
  MachineConfig config;
  config.kernel = kernel;
  config.initrd = initrd;
  config.memory = 256u << 20;
  const auto machine = TRY(Machine::create(config, {}));
  machine->suspend();
  auto sections = TRY(machine->save());
  TRY(keep_given_cpuid(sections));

  const auto writer = TRY(snapshot::Writer::create(directory));
  snapshot::Manifest manifest;
  manifest.architecture = snapshot::host_architecture();
  manifest.program = VMM_VERSION;
  const auto texts = TRY(config::to_manifest_texts(config));
  manifest.config = texts.config;
  manifest.attachments = texts.attachments;
  const auto& memory = machine->memory();
  for (const auto& region : memory.regions()) manifest.memory.push_back(region.range);
  manifest.memory_digest =
      TRY(snapshot::write_memory(*writer, memory, TRY(snapshot::touched_pages(memory))));
  sections.put(snapshot::kMemorySection, snapshot::MemoryLayer{});
  const auto states = TRY(sections.to_bytes());
  manifest.state_digest = snapshot::digest_of(states);
  TRY(writer->write_file(snapshot::kStateFile, states));
  return writer->publish(manifest);
}

}  // namespace
}  // namespace vmm

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: unrun_snapshot DIRECTORY KERNEL INITRD\n", stderr);
    return 2;
  }
  if (const auto made = vmm::make(argv[1], argv[2], argv[3]); !made) {
    std::fprintf(stderr, "unrun_snapshot: %s\n", made.error().message().c_str());
    return 1;
  }
  return 0;
}
