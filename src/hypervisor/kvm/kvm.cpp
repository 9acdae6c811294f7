#include "src/hypervisor/kvm/kvm.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "src/base/log.h"
#include "src/base/text.h"

namespace vmm::kvm {
namespace {

constexpr int kApiVersion = 12;
// Above all wired interrupts of any architecture.
constexpr std::uint32_t kFirstMsiGsi = 64;

class Line : public InterruptLine {
 public:
  Line(int vm_fd, std::uint32_t gsi) : vm_fd_(vm_fd), gsi_(gsi) {}
  void set_level(bool high) override {
    kvm_irq_level level{};
    level.irq = gsi_;
    level.level = high ? 1 : 0;
    if (const auto r = call(vm_fd_, KVM_IRQ_LINE, "KVM_IRQ_LINE", &level); !r) {
      log::error_limited(limit_, "interrupt {}: {}", gsi_, r.error().message());
    }
  }

 private:
  const int vm_fd_;
  const std::uint32_t gsi_;
  log::RateLimit limit_;
};

}  // namespace

Result<Kvm> Kvm::open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) {
    switch (errno) {
      case ENOENT:
      case ENODEV:
      case ENXIO:
        return fail(
            "there is no {}: enable virtualization in the firmware and load KVM's module "
            "(kvm_intel "
            "or kvm_amd; on arm64 the kernel has to be started at EL2)",
            path);
      case EACCES:
      case EPERM:
        return fail("no permission to use {}: add the user to the group that owns it, kvm", path);
      default:
        return fail_errno("cannot open {}", path);
    }
  }
  const int version = ::ioctl(fd.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) return fail("{} is not a KVM device", path);
  if (version != kApiVersion) {
    return fail("{} speaks version {} of the KVM interface, {} is needed", path, version,
                kApiVersion);
  }
  return Kvm(std::move(fd));
}

Result<void> Kvm::check_runs_guests() {
  struct stat unused;
  if (::stat("/sys/module/kvm_pvm", &unused) != 0) return {};
  return fail(
      "this host's KVM cannot boot a stock kernel: it needs a processor with hardware "
      "virtualization (VT-x or AMD-V)");
}

int Kvm::extension(int capability) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
  return value < 0 ? 0 : value;
}

unsigned Kvm::max_vcpus() const {
  const int value = extension(KVM_CAP_MAX_VCPUS);
  return value > 0 ? static_cast<unsigned>(value) : 4;  // 4: api.rst, 4.4
}

Result<std::unique_ptr<Vm>> Kvm::create_vm(unsigned long type) const {
  const int vm = TRY(call(fd_.get(), KVM_CREATE_VM, "KVM_CREATE_VM", type));
  UniqueFd vm_fd(vm);
  // A system ioctl: asked of /dev/kvm, not of the VM.
  const int run_size = TRY(call(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0));
  // The ring's page in the mapping, for ports where both capabilities are there.
  const int page = extension(KVM_CAP_COALESCED_PIO) != 0 ? extension(KVM_CAP_COALESCED_MMIO) : 0;
  const auto ring_offset = static_cast<std::size_t>(page * ::sysconf(_SC_PAGESIZE));
  return std::unique_ptr<Vm>(
      new Vm(std::move(vm_fd), static_cast<std::size_t>(run_size), ring_offset));
}

Result<void> Vm::add_memory(const GuestMemory& memory) {
  std::uint32_t slot = 0;
  for (const auto& region : memory.regions()) {
    kvm_userspace_memory_region argument{};
    argument.slot = slot++;
    argument.guest_phys_addr = region.range.base.value;
    argument.memory_size = region.range.size;
    argument.userspace_addr = reinterpret_cast<std::uint64_t>(region.host);
    TRY(call(fd_.get(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &argument));
  }
  return {};
}

Result<void> Vm::add_windows(const GuestMemory& memory) {
  auto slot = static_cast<std::uint32_t>(memory.regions().size());
  for (const auto& window : memory.windows()) {
    kvm_userspace_memory_region argument{};
    argument.slot = slot++;
    argument.flags = KVM_MEM_READONLY;
    argument.guest_phys_addr = window.range.base.value;
    argument.memory_size = window.range.size;
    argument.userspace_addr = reinterpret_cast<std::uint64_t>(window.host);
    if (const auto set =
            call(fd_.get(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &argument);
        !set) {
      return fail("no room for {} at {:#x} of the guest's addresses: {}",
                  format_size(window.range.size), window.range.base.value, set.error().message());
    }
  }
  return {};
}

void Vm::collect_port_writes(std::uint64_t port, std::uint32_t size) {
  if (ring_offset_ == 0 || ring_offset_ >= run_size_) return;
  kvm_coalesced_mmio_zone zone{};
  zone.addr = port;
  zone.size = size;
  zone.pio = 1;
  if (::ioctl(fd_.get(), KVM_REGISTER_COALESCED_MMIO, &zone) == 0) collects_ = true;
}

Result<std::unique_ptr<Vcpu>> Vm::create_vcpu(unsigned index) {
  UniqueFd fd(TRY(call(fd_.get(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU", index)));
  auto run = TRY(Mapping::create(run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
  std::unique_ptr<Vcpu> vcpu(new Vcpu(index, std::move(fd), std::move(run)));
  if (collects_) {
    vcpu->collected_ = reinterpret_cast<kvm_coalesced_mmio_ring*>(vcpu->run_.data() + ring_offset_);
    vcpu->collected_mutex_ = &collected_mutex_;
  }
  return vcpu;
}

Result<int> Vm::create_device(std::uint32_t type) {
  kvm_create_device argument{};
  argument.type = type;
  TRY(call(fd_.get(), KVM_CREATE_DEVICE, "KVM_CREATE_DEVICE", &argument));
  devices_.push_back({type, UniqueFd(static_cast<int>(argument.fd))});
  return devices_.back().fd.get();
}

Result<int> Vm::device(std::uint32_t type) const {
  for (const auto& device : devices_) {
    if (device.type == type) return device.fd.get();
  }
  return fail("the machine has no device of KVM's type {}", type);
}

std::unique_ptr<InterruptLine> Vm::line(std::uint32_t gsi) const {
  return std::make_unique<Line>(fd_.get(), gsi);
}

// Without a route, so that a guest's boot programs none. A Route (irqfd) is made where the host's
// kernel signals: for vhost-net.
void Vm::send(const MsiMessage& message) {
  kvm_msi msi{};
  msi.address_lo = static_cast<std::uint32_t>(message.address);
  msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  msi.data = message.data;
  msi.flags = message_flags_;
  msi.devid = message.requester;
  // A result of 0 says that the guest blocked it, and a guest may program nonsense.
  if (const auto r = call(fd_.get(), KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI", &msi); !r) {
    log::debug("interrupt message {:#x}: {}", message.address, r.error().message());
  }
}

class Vm::Route : public MsiRoute {
 public:
  Route(Vm& vm, std::uint32_t gsi, EventFd event) : vm_(vm), gsi_(gsi), event_(std::move(event)) {}
  ~Route() override {
    if (enabled_) (void)connect(false);  // the VM is going away
    std::lock_guard lock(vm_.mutex_);
    vm_.routes_[gsi_ - kFirstMsiGsi] = nullptr;
  }
  int event_fd() const override { return event_.fd(); }
  Result<void> set_message(const MsiMessage& message) override {
    if (programmed_ && message == message_) return {};
    std::lock_guard lock(vm_.mutex_);
    message_ = message;
    programmed_ = true;
    return vm_.program_routes();
  }
  Result<void> set_enabled(bool enabled) override {
    if (enabled == enabled_) return {};
    TRY(connect(enabled));
    enabled_ = enabled;
    return {};
  }
  bool programmed() const { return programmed_; }
  kvm_irq_routing_entry entry() const {
    kvm_irq_routing_entry result{};
    result.gsi = gsi_;
    result.type = KVM_IRQ_ROUTING_MSI;
    result.u.msi.address_lo = static_cast<std::uint32_t>(message_.address);
    result.u.msi.address_hi = static_cast<std::uint32_t>(message_.address >> 32);
    result.u.msi.data = message_.data;
    result.flags = vm_.message_flags_;
    result.u.msi.devid = message_.requester;
    return result;
  }

 private:
  Result<void> connect(bool on) {
    kvm_irqfd argument{};
    argument.fd = static_cast<std::uint32_t>(event_.fd());
    argument.gsi = gsi_;
    argument.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN;
    TRY(call(vm_.fd(), KVM_IRQFD, "KVM_IRQFD", &argument));
    return {};
  }
  Vm& vm_;
  const std::uint32_t gsi_;
  EventFd event_;
  MsiMessage message_;
  bool programmed_ = false;
  bool enabled_ = false;
};

void Vm::set_fixed_routes(std::vector<kvm_irq_routing_entry> routes) {
  std::lock_guard lock(mutex_);
  fixed_routes_ = std::move(routes);
}

Result<std::unique_ptr<MsiRoute>> Vm::create_route() {
  auto event = TRY(EventFd::create());
  std::lock_guard lock(mutex_);
  std::size_t index = 0;
  while (index < routes_.size() && routes_[index] != nullptr) ++index;
  if (index == routes_.size()) routes_.push_back(nullptr);
  auto route = std::make_unique<Route>(*this, kFirstMsiGsi + static_cast<std::uint32_t>(index),
                                       std::move(event));
  routes_[index] = route.get();
  return route;
}

Result<void> Vm::program_routes() {
  std::vector<kvm_irq_routing_entry> entries = fixed_routes_;
  for (const Route* route : routes_) {
    if (route != nullptr && route->programmed()) entries.push_back(route->entry());
  }
  Table<kvm_irq_routing, kvm_irq_routing_entry> table{std::span(std::as_const(entries))};
  table.header()->nr = static_cast<std::uint32_t>(entries.size());
  TRY(call(fd_.get(), KVM_SET_GSI_ROUTING, "KVM_SET_GSI_ROUTING", table.header()));
  return {};
}

Result<void> Vm::doorbell(GuestAddress address, const EventFd& event, std::uint32_t flags) {
  kvm_ioeventfd argument{};
  argument.addr = address.value;
  argument.len = 0;  // any width
  argument.fd = event.fd();
  argument.flags = flags;
  TRY(call(fd_.get(), KVM_IOEVENTFD, "KVM_IOEVENTFD", &argument));
  return {};
}

Result<void> Vm::attach(GuestAddress address, const EventFd& event) {
  return doorbell(address, event, 0);
}

void Vm::detach(GuestAddress address, const EventFd& event) {
  if (const auto r = doorbell(address, event, KVM_IOEVENTFD_FLAG_DEASSIGN); !r) {
    log::error_limited(limit_, "doorbell {:#x}: {}", address.value, r.error().message());
  }
}

std::uint64_t Vcpu::map_memory(GuestAddress base, std::uint64_t size) {
  kvm_pre_fault_memory range{};
  range.gpa = base.value;
  range.size = size;
  // It goes on behind what is done, which `range` says.
  while (range.size > 0) {
    const auto before = range.size;
    if (::ioctl(fd_.get(), KVM_PRE_FAULT_MEMORY, &range) < 0 && errno != EAGAIN) break;
    if (range.size == before) break;
  }
  return size - range.size;
}

Result<Exit> Vcpu::run() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
    if (errno == EINTR || errno == EAGAIN) return Exit::interrupted;
    return fail_errno("vCPU {}: KVM_RUN", index_);
  }
  switch (state().exit_reason) {
    case KVM_EXIT_IO:
      return Exit::io;
    case KVM_EXIT_MMIO:
      return Exit::mmio;
    case KVM_EXIT_INTR:
      return Exit::interrupted;
    case KVM_EXIT_SHUTDOWN:
      return Exit::shutdown;
    case KVM_EXIT_HLT:
      return Exit::halt;
    case KVM_EXIT_SYSTEM_EVENT:
      switch (state().system_event.type) {
        case KVM_SYSTEM_EVENT_SHUTDOWN:
          return Exit::power_off;
        case KVM_SYSTEM_EVENT_RESET:
          return Exit::reset;
        case KVM_SYSTEM_EVENT_CRASH:
          return Exit::crash;
        default:
          return Exit::other;
      }
    default:
      return Exit::other;
  }
}

bool Vcpu::has_collected() const {
  return __atomic_load_n(&collected_->first, __ATOMIC_ACQUIRE) !=
         __atomic_load_n(&collected_->last, __ATOMIC_ACQUIRE);
}

// KVM_COALESCED_MMIO_MAX of the kernel's headers, which leave the page's size to who includes them.
void Vcpu::drain_collected(const PortWrite& write) const {
  const auto capacity = static_cast<std::uint32_t>(
      (static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) - sizeof(kvm_coalesced_mmio_ring)) /
      sizeof(kvm_coalesced_mmio));
  std::lock_guard lock(*collected_mutex_);
  while (has_collected()) {
    const std::uint32_t first = collected_->first % capacity;
    const auto& entry = collected_->coalesced_mmio[first];
    const unsigned size = std::min<unsigned>(entry.len, sizeof entry.data);
    std::uint64_t value = 0;
    std::memcpy(&value, entry.data, size);
    write(entry.phys_addr, size, value);
    __atomic_store_n(&collected_->first, (first + 1) % capacity, __ATOMIC_RELEASE);
  }
}

void Vcpu::set_immediate_exit(bool on) {
  __atomic_store_n(&state().immediate_exit, on ? std::uint8_t{1} : std::uint8_t{0},
                   __ATOMIC_SEQ_CST);
}

}  // namespace vmm::kvm
