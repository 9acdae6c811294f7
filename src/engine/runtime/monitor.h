// Monitor: the process of a container's machine, a child of the supervisor.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/engine/runtime/container.h"
#include "src/engine/runtime/machine_files.h"

namespace vmm::engine {

// Megabytes and CPUs of the machine that runs `spec`: a limit of the container's, and room for the
// kernel; without a limit, what the host has within reason.
struct MachineSize {
  std::uint64_t memory_mib = 0;
  std::uint32_t cpus = 1;
};
MachineSize machine_size(const ContainerSpec& spec);

// What an image is, one behind the other: its merged metadata, then its layers, whole pages each.
struct ImageFile {
  std::string path;
  std::uint64_t size = 0;  // bytes
};
Result<std::vector<ImageFile>> image_files(const ContentStore& content, const Image& image);

// Whether the machine of `spec` can map them: its kernel is known to have the driver, and the slot
// has the room.
bool maps_image(const ContainerSpec& spec, std::span<const ImageFile> files);

// The words of `vmm` for a container's machine, with paths relative to the container's directory:
// of one that boots; of a template, with slots for what is the container's; of one that goes on
// from the template, or snapshot of a container, at `path`.
std::vector<std::string> boot_words(const Container& container, const MachineFiles& files);
std::vector<std::string> template_words(const ContainerSpec& spec, const MachineFiles& files);
std::vector<std::string> restore_words(const Container& container, const std::string& path);

// The text of image.vmdk.
std::string disk_descriptor(std::span<const ImageFile> files);

struct Monitor {
  pid_t pid = -1;
  UniqueFd pidfd;
  UniqueFd errors;  // what it says on standard error, non-blocking
  UniqueFd ready;   // readable when its guest runs, or it has ended

  // In `directory`. It holds `lock` as long as it lives, and ends when this process does.
  static Result<Monitor> start(const std::string& program, std::vector<std::string> words,
                               const std::string& directory, int lock);
};

// For the agent of a machine to answer: of one that boots, and of one that goes on from a template,
// which boots instead then.
inline constexpr std::chrono::seconds kBootPatience{120}, kRestorePatience{20};

// Of what a machine said on standard error, for a message.
std::string last_line(std::string text);

// The addresses of a machine with a network of its own (user_net/config.h).
inline constexpr const char* kMachineAddress = "10.0.2.15";
inline constexpr const char* kGatewayAddress = "10.0.2.2";
inline constexpr const char* kNameServerAddress = "10.0.2.3";

}  // namespace vmm::engine
