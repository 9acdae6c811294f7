#include "src/engine/runtime/monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "src/base/text.h"

namespace vmm::engine {
namespace {

constexpr std::uint64_t kMib = 1u << 20;
constexpr std::uint64_t kKernelRoom = 64;     // MiB beside a container's limit
constexpr std::uint64_t kLeastMemory = 160;   // MiB; the kernel and its initramfs
constexpr std::uint64_t kUsualMemory = 2048;  // MiB; what is not used goes back to the host
constexpr std::uint32_t kMostCpus = 8;

std::uint64_t host_memory_mib() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) / kMib;
}

std::string network_option(const ContainerSpec& spec) {
  std::string option = "user";
  for (const auto& port : spec.ports) {
    auto address = port.host_address;
    if (address.contains(':')) address = fmt::format("[{}]", address);
    option +=
        fmt::format(",hostfwd={}:{}:{}-:{}", port.protocol, address.empty() ? "0.0.0.0" : address,
                    port.host_port, port.container_port);
  }
  return option;
}

}  // namespace

MachineSize machine_size(const ContainerSpec& spec) {
  MachineSize size;
  const auto host = host_memory_mib();
  size.memory_mib = spec.memory == 0 ? std::min(kUsualMemory, host / 2)
                                     : (spec.memory + kMib - 1) / kMib + kKernelRoom;
  size.memory_mib = std::min(std::max(size.memory_mib, kLeastMemory), host);
  const auto online = static_cast<std::uint32_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  const auto wanted =
      spec.cpu_limit == 0 ? kMostCpus : static_cast<std::uint32_t>((spec.cpu_limit + 999) / 1000);
  size.cpus = std::max(1u, std::min(wanted, online));
  return size;
}

std::vector<std::string> monitor_arguments(const Container& container, const MachineFiles& files) {
  const auto size = machine_size(container.spec);
  std::vector<std::string> words = {"vmm",
                                    "--kernel",
                                    files.kernel,
                                    "--initrd",
                                    files.initramfs,
                                    "--mem",
                                    fmt::format("{}M", size.memory_mib),
                                    "--cpus",
                                    fmt::format("{}", size.cpus),
                                    "--disk",
                                    "image.vmdk,format=vmdk,ro",
                                    "--disk",
                                    "writable.img,format=raw",
                                    "--vsock",
                                    "vsock",
                                    "--control",
                                    "control",
                                    "--serial",
                                    "none",
                                    "--name",
                                    container.name,
                                    "--rng",
                                    "--balloon",
                                    "--no-reboot"};
  if (!files.append.empty()) words.insert(words.end(), {"--append", files.append});
  if (container.spec.network != "none") {
    words.insert(words.end(), {"--net", network_option(container.spec)});
  }
  return words;
}

Result<std::string> disk_descriptor(const ContentStore& content, const Image& image) {
  std::string text = "# Disk DescriptorFile\nversion=1\ncreateType=\"twoGbMaxExtentFlat\"\n";
  const auto add = [&text](const std::string& path) -> Result<void> {
    struct stat status{};
    if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot read '{}' of the image", path);
    if (status.st_size > 0) {  // a layer without files' data has no blocks
      text += fmt::format("RW {} FLAT \"{}\" 0\n", status.st_size / 512, path);
    }
    return {};
  };
  TRY(add(content.path(Content::merged, image.id)));
  for (const auto& layer : image.layers) TRY(add(content.path(Content::layer, layer.diff_id)));
  return text;
}

Result<Monitor> Monitor::start(const std::string& program, const std::vector<std::string>& words,
                               const std::string& directory, int lock) {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) < 0) return fail_errno("cannot make a pipe");
  Monitor monitor;
  monitor.errors = UniqueFd(ends[0]);
  const UniqueFd errors(ends[1]);
  std::vector<char*> arguments;
  for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = ::getpid();
  monitor.pid = ::fork();
  if (monitor.pid < 0) return fail_errno("cannot start the machine");
  if (monitor.pid == 0) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::setpgid(0, 0);  // signals of a terminal are not for it
    for (int number = 1; number < NSIG; ++number) (void)::signal(number, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    (void)::fcntl(lock, F_SETFD, 0);
    (void)::fcntl(errors.get(), F_SETFL, 0);
    if (::dup2(errors.get(), STDERR_FILENO) >= 0 && ::chdir(directory.c_str()) == 0) {
      ::execv(program.c_str(), arguments.data());
    }
    ::_exit(127);
  }
  monitor.pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, monitor.pid, 0)));
  if (!monitor.pidfd) return fail_errno("cannot watch the machine");
  return monitor;
}

}  // namespace vmm::engine
