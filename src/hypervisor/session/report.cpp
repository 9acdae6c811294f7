#include "src/hypervisor/session/report.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <charconv>
#include <future>

#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/net/net_device.h"
#include "src/base/unique_fd.h"

namespace vmm {
namespace {

using nlohmann::json;

// A field of /proc/self/smaps_rollup or of status, in bytes; 0 when it is not there.
std::uint64_t proc_bytes(const std::string& text, std::string_view field) {
  const auto at = text.find(field);
  if (at == std::string::npos) return 0;
  std::uint64_t kibibytes = 0;
  const char* begin = text.data() + at + field.size();
  while (*begin == ' ' || *begin == '\t' || *begin == ':') ++begin;
  std::from_chars(begin, text.data() + text.size(), kibibytes);
  return kibibytes * 1024;
}

json exits_of(const ExitCounters& counters) {
  return {{"io", counters.io.load()},
          {"mmio", counters.mmio.load()},
          {"interrupted", counters.interrupted.load()},
          {"other", counters.other.load()}};
}

json block_metrics(const virtio::BlockDevice& device) {
  const auto s = device.statistics();
  return {{"reads", s.reads},
          {"writes", s.writes},
          {"flushes", s.flushes},
          {"discards", s.discards},
          {"write_zeroes", s.write_zeroes},
          {"bytes_read", s.bytes_read},
          {"bytes_written", s.bytes_written},
          {"errors", s.errors},
          {"throttled", s.throttled}};
}

json net_metrics(const virtio::NetDevice& device) {
  const auto m = device.metrics();
  return {{"rx_packets", m.rx_packets}, {"rx_bytes", m.rx_bytes}, {"rx_dropped", m.rx_dropped},
          {"tx_packets", m.tx_packets}, {"tx_bytes", m.tx_bytes}, {"tx_dropped", m.tx_dropped},
          {"vhost", m.vhost},           {"link_up", m.link_up}};
}

// How long a guest may take to say what its memory is used for.
constexpr auto kGuestPatience = std::chrono::milliseconds(200);

json balloon_metrics(virtio::BalloonDevice& device) {
  const auto answered = std::make_shared<std::promise<void>>();
  device.request_statistics([answered](const auto&) { answered->set_value(); });
  // Without an answer, what it said last is told.
  (void)answered->get_future().wait_for(kGuestPatience);
  const auto status = device.status();
  json guest = json::object();
  if (const auto statistics = device.last_statistics()) {
    for (std::size_t i = 0; i < virtio::kBalloonStatisticNames.size(); ++i) {
      if (const auto value = statistics->values[i]) {
        guest[std::string(virtio::kBalloonStatisticNames[i])] = *value;
      }
    }
  }
  return {{"target_bytes", status.target_bytes},
          {"actual_bytes", status.actual_bytes},
          {"inflated_bytes", status.inflated_bytes},
          {"reported_bytes", status.reported_bytes},
          {"guest", guest}};
}

}  // namespace

std::string status_json(const MachineConfig& config, Machine& machine, const std::string& state,
                        std::chrono::nanoseconds uptime, unsigned reboots) {
  json nets = json::array();
  for (std::size_t i = 0; i < config.nets.size(); ++i) {
    if (const auto* net = machine.devices().find<virtio::NetDevice>(fmt::format("net{}", i))) {
      nets.push_back({{"mac", net->mac().text()}});
    }
  }
  json disks = json::array();
  for (const auto& disk : config.disks) {
    disks.push_back(
        {{"path", disk.label.empty() ? disk.path : disk.label}, {"read_only", disk.read_only}});
  }
  json status = {
      {"state", state},
      {"name", config.name},
      {"pid", ::getpid()},
      {"version", VMM_VERSION},
      {"uptime_ms", std::chrono::duration_cast<std::chrono::milliseconds>(uptime).count()},
      {"reboots", reboots},
      {"memory", config.memory},
      {"cpus", config.cpus},
      {"kernel", config.kernel},
      {"disks", disks},
      {"nets", nets}};
  if (config.vsock) status["vsock"] = {{"cid", config.vsock->cid}, {"path", config.vsock->path}};
  return status.dump();
}

std::string metrics_json(Machine& machine) {
  json metrics;
  json vcpus = json::array();
  for (const auto& vcpu : machine.vcpus()) vcpus.push_back(exits_of(vcpu->counters()));
  metrics["vcpus"] = vcpus;
  json devices = json::object();
  machine.devices().for_each([&](const std::string& name, virtio::Device& device) {
    if (const auto* block = dynamic_cast<virtio::BlockDevice*>(&device)) {
      devices[name] = block_metrics(*block);
    } else if (const auto* net = dynamic_cast<virtio::NetDevice*>(&device)) {
      devices[name] = net_metrics(*net);
    } else if (auto* balloon = dynamic_cast<virtio::BalloonDevice*>(&device)) {
      devices[name] = balloon_metrics(*balloon);
    }
  });
  metrics["devices"] = devices;
  if (const auto rollup = read_text_file("/proc/self/smaps_rollup")) {
    const std::uint64_t resident = proc_bytes(*rollup, "Rss");
    const std::uint64_t guest = machine.memory().resident();
    metrics["memory"] = {{"guest", machine.memory().size()},
                         {"guest_resident", guest},
                         {"resident", resident},
                         {"overhead", resident - std::min(resident, guest)}};
  }
  return metrics.dump();
}

}  // namespace vmm
