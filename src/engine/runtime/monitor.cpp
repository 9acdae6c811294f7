#include "src/engine/runtime/monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "src/base/child.h"
#include "src/base/text.h"

namespace vmm::engine {
namespace {

constexpr std::uint64_t kMib = 1u << 20;
constexpr std::uint64_t kKernelRoom = 64;     // MiB beside a container's limit
constexpr std::uint64_t kLeastMemory = 160;   // MiB; the kernel and its initramfs
constexpr std::uint64_t kUsualMemory = 2048;  // MiB; what is not used goes back to the host
constexpr std::uint32_t kMostCpus = 8;
constexpr const char* kImageSlot = "8T";  // EROFS of 4 KiB blocks goes to 16
// Of an image that the guest maps: it describes the slot's pages in a 64th of the size, memory
// which containers of a template share.
constexpr std::uint64_t kMappedSlot = 1024;  // MiB

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

void append(std::vector<std::string>& words, std::vector<std::string> more) {
  std::ranges::move(more, std::back_inserter(words));
}

// What machine it is.
std::vector<std::string> machine_words(const ContainerSpec& spec, const MachineFiles& files) {
  const auto size = machine_size(spec);
  std::vector<std::string> words = {"vmm",
                                    "--kernel",
                                    files.kernel,
                                    "--initrd",
                                    files.initramfs,
                                    "--mem",
                                    fmt::format("{}M", size.memory_mib),
                                    "--cpus",
                                    fmt::format("{}", size.cpus),
                                    "--serial",
                                    "none",
                                    "--rng",
                                    "--balloon",
                                    "--no-reboot"};
  if (!files.append.empty()) append(words, {"--append", files.append});
  return words;
}

// A person's own kernel may have no driver.
bool has_mapped_slot(const ContainerSpec& spec) { return spec.kernel.empty(); }

// What it is connected to, besides its disks.
std::vector<std::string> connection_words(const Container& container) {
  std::vector<std::string> words = {"--vsock", "vsock",  "--control",
                                    "control", "--name", container.name};
  if (container.spec.network != "none") append(words, {"--net", network_option(container.spec)});
  return words;
}

std::string writable_disk(const Container& container) {
  return fmt::format("{},format={}", container.writable_file(),
                     container.snapshot.empty() ? "raw" : "qcow2");
}

}  // namespace

MachineSize machine_size(const ContainerSpec& spec) {
  MachineSize size;
  const auto host = host_memory_mib();
  const auto room = has_mapped_slot(spec) ? kMappedSlot / 64 : 0;  // of the slot's description
  size.memory_mib = spec.memory == 0 ? std::min(kUsualMemory, host / 2)
                                     : (spec.memory + kMib - 1) / kMib + kKernelRoom + room;
  size.memory_mib = std::min(std::max(size.memory_mib, kLeastMemory + room), host);
  const auto online = static_cast<std::uint32_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  const auto wanted =
      spec.cpu_limit == 0 ? kMostCpus : static_cast<std::uint32_t>((spec.cpu_limit + 999) / 1000);
  size.cpus = std::max(1u, std::min(wanted, online));
  return size;
}

bool maps_image(const ContainerSpec& spec, std::span<const ImageFile> files) {
  constexpr std::uint64_t kPage = 4096;
  std::uint64_t size = 0;
  bool has_whole_pages = true;  // as all that we write
  for (const auto& file : files) {
    size += file.size;
    has_whole_pages = has_whole_pages && file.size % kPage == 0;
  }
  return has_mapped_slot(spec) && has_whole_pages && size <= kMappedSlot * kMib;
}

// The image in a slot: a snapshot of the machine has its copies' own lists of files there.
std::vector<std::string> boot_words(const Container& container, const MachineFiles& files) {
  auto words = machine_words(container.spec, files);
  // The writable layer is the second disk, as it is in a template.
  const auto disk = container.spec.mapped_image ? "" : "image.vmdk,format=vmdk,";
  append(words, {"--disk", fmt::format("{}size={},ro", disk, kImageSlot), "--disk",
                 writable_disk(container)});
  if (container.spec.mapped_image) {
    append(words, {"--pmem", fmt::format("image.vmdk,format=vmdk,size={}M", kMappedSlot)});
  }
  append(words, connection_words(container));
  return words;
}

std::vector<std::string> template_words(const ContainerSpec& spec, const MachineFiles& files) {
  auto words = machine_words(spec, files);
  append(words, {"--disk", fmt::format("size={},ro", kImageSlot), "--disk",
                 fmt::format("size={}", kWritableSize), "--vsock", "vsock", "--control", "control",
                 "--name", "template"});
  if (has_mapped_slot(spec)) append(words, {"--pmem", fmt::format("size={}M", kMappedSlot)});
  if (spec.network != "none") append(words, {"--net", "unplugged"});
  return words;
}

std::vector<std::string> restore_words(const Container& container, const std::string& path) {
  std::vector<std::string> words = {"vmm", "--restore", path, "--serial", "none"};
  if (container.spec.mapped_image) {
    append(words, {"--pmem", "image.vmdk,format=vmdk"});
  } else {
    append(words, {"--disk", "blk0=image.vmdk,format=vmdk"});
  }
  words.emplace_back("--disk");
  // Over the snapshot's disk a layer is made; a template has a slot.
  words.push_back(container.goes_on() ? container.writable_file()
                                      : fmt::format("blk1={},rw", writable_disk(container)));
  append(words, connection_words(container));
  return words;
}

Result<std::vector<ImageFile>> image_files(const ContentStore& content, const Image& image) {
  std::vector<ImageFile> files;
  const auto add = [&files](const std::string& path) -> Result<void> {
    struct stat status{};
    if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot read '{}' of the image", path);
    if (status.st_size > 0) files.push_back({path, static_cast<std::uint64_t>(status.st_size)});
    return {};
  };
  TRY(add(content.path(Content::merged, image.id)));
  for (const auto& layer : image.layers) TRY(add(content.path(Content::layer, layer.diff_id)));
  return files;
}

std::string disk_descriptor(std::span<const ImageFile> files) {
  std::string text = "# Disk DescriptorFile\nversion=1\ncreateType=\"twoGbMaxExtentFlat\"\n";
  for (const auto& file : files) {
    text += fmt::format("RW {} FLAT \"{}\" 0\n", file.size / 512, file.path);
  }
  return text;
}

std::string last_line(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  text.erase(0, text.rfind('\n') + 1);
  if (text.starts_with("vmm: ")) text.erase(0, 5);
  return text;
}

Result<Monitor> Monitor::start(const std::string& program, std::vector<std::string> words,
                               const std::string& directory, int lock) {
  auto errors = TRY(Pipe::create());
  auto ready = TRY(Pipe::create());
  append(words, {"--ready-fd", fmt::format("{}", ready.write_end.get())});
  Monitor monitor;
  monitor.errors = std::move(errors.read_end);
  monitor.ready = std::move(ready.read_end);
  (void)::fcntl(monitor.errors.get(), F_SETFL, O_NONBLOCK);
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
    for (const int kept : {lock, ready.write_end.get()}) (void)::fcntl(kept, F_SETFD, 0);
    if (::dup2(errors.write_end.get(), STDERR_FILENO) >= 0 && ::chdir(directory.c_str()) == 0) {
      ::execv(program.c_str(), arguments.data());
    }
    ::_exit(127);
  }
  monitor.pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, monitor.pid, 0)));
  if (!monitor.pidfd) return fail_errno("cannot watch the machine");
  return monitor;
}

}  // namespace vmm::engine
