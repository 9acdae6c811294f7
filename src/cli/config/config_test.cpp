#include <gtest/gtest.h>

#include <random>

#include "src/cli/config/given_machine.h"
#include "src/hypervisor/machine/device_kinds.h"

namespace vmm::config {
namespace {

using Words = std::vector<std::pair<std::string, std::string>>;

Result<GivenMachine> given_by(const Words& words) {
  GivenMachine given;
  for (const auto& [key, word] : words) TRY(take_option(given, key, word));
  return given;
}

// With a kernel, which every machine needs.
Result<MachineConfig> machine_of(const Words& words) {
  auto given = TRY(given_by(words));
  given.machine.kernel = "vmlinux";
  return to_machine(given);
}

std::string error_of(const Words& words) {
  const auto machine = machine_of(words);
  return machine ? "no error" : machine.error().message();
}

Result<MachineConfig> machine_in(const std::string& text) {
  GivenMachine given;
  TRY(take_text(given, text, "test"));
  return to_machine(given, Kernel::optional);
}

TEST(DiskConfig, TakesItsKeys) {
  const auto disk =
      disk::parse_disk_config("a,,b=c.img,ro,serial=X1,bps=10M,iops=100,queues=2,io=threads");
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_EQ(disk->path, "a,b=c.img");
  EXPECT_TRUE(disk->read_only);
  EXPECT_EQ(disk->serial, "X1");
  EXPECT_EQ(disk->limits.bytes_per_second, 10u << 20);
  EXPECT_EQ(disk->limits.operations_per_second, 100u);
  EXPECT_EQ(disk->queues, 2);
  EXPECT_EQ(disk->io, disk::IoEngine::threads);
  EXPECT_EQ(disk->format, disk::ImageFormat::automatic);
  EXPECT_EQ(disk::parse_disk_config("path=x,ro=off")->path, "x");
  EXPECT_EQ(*disk::parse_disk_config("size=64G,ro"),
            (disk::DiskConfig{.slot_size = 64ull << 30, .read_only = true}));
  EXPECT_EQ(*disk::parse_disk_config("x,size=1M"),
            (disk::DiskConfig{.path = "x", .slot_size = 1u << 20}));
  EXPECT_EQ(disk::parse_disk_config("x,format=qcow2")->format, disk::ImageFormat::qcow2);
  EXPECT_EQ(disk::parse_disk_config("x,format=raw")->format, disk::ImageFormat::raw);
}

TEST(DiskConfig, RefusesWithTheWord) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "path is missing"},
      {"x,seral=1", "did you mean 'serial'"},
      {"x,readonly=on", "did you mean 'ro'"},
      {"x,ro=maybe", "'maybe'"},
      {"x,queues=0", "'0'"},
      {"x,queue-size=100", "power"},
      {"x,serial", "takes a value"},
      {"x,bps=2Q", "'2Q'"},
      {"x,serial=123456789012345678901", "longer than 20"},
      {"x,io=fast", "'fast'"},
      {"x,format=qcow", "did you mean 'qcow2'"},
      {"x,formt=raw", "did you mean 'format'"},
      {"x,iops=0", "expected at least 1"}};
  for (const auto& [text, part] : cases) {
    const auto disk = disk::parse_disk_config(text);
    ASSERT_FALSE(disk) << text;
    EXPECT_NE(disk.error().message().find(part), std::string::npos) << disk.error().message();
  }
}

// ---- JSON

TEST(MachineJson, IsTyped) {
  const auto machine = machine_of({{"mem", "2G"},
                                   {"cpus", "2"},
                                   {"disk", "root.img,ro,bps=10M"},
                                   {"net", "user,restrict=on,hostfwd=tcp::8080-:80"},
                                   {"net", "tap=t0,mac=52:54:00:12:34:56"},
                                   {"net", "fd=5:6"},
                                   {"vsock", "cid=9"},
                                   {"serial", "file:/var/log/a,max=1M"},
                                   {"reboot", "off"}});
  ASSERT_TRUE(machine) << machine.error().message();
  EXPECT_EQ(to_json_text(*machine).value(), R"({
  "version": 1,
  "kernel": "vmlinux",
  "mem": 2147483648,
  "cpus": 2,
  "disk": [
    {
      "path": "root.img",
      "ro": true,
      "bps": 10485760
    }
  ],
  "net": [
    {
      "user": true,
      "hostfwd": [
        "tcp:127.0.0.1:8080-:80"
      ],
      "restrict": true
    },
    {
      "tap": "t0",
      "mac": "52:54:00:12:34:56"
    },
    {
      "fd": [
        5,
        6
      ]
    }
  ],
  "vsock": {
    "cid": 9
  },
  "serial": {
    "kind": "file",
    "path": "/var/log/a",
    "max": 1048576
  },
  "reboot": false
})");
}

// What snapshots of versions 1 and 2 keep: objects made of the words of options.
TEST(MachineJson, ReadsTheObjectsThatWordsWereKeptAs) {
  const auto machine = machine_in(R"({
    "mem": "2G", "cpus": "2", "vsock": "/run/v,,s,cid=77", "serial": "file:/var/log/a,b",
    "balloon": true,
    "disk": [{"path": "a,b=c.img", "ro": true, "serial": "007", "bps": "10M", "iops": 100},
             {"path": true, "ro": false, "serial": 12}, "x,scratch"],
    "net": [{"user": true, "hostfwd": ["tcp::1-:2", "udp:0.0.0.0:3-:4"], "net": "10.9.0.0/16"},
            {"user": true, "hostfwd": "tcp::5-:6", "hostname": true},
            {"tap": "t0", "vhost": true, "queues": 2}, {"fd": "5:6"}, {"fd": 7}, "none",
            {"none": true}]})");
  ASSERT_TRUE(machine) << machine.error().message();
  const auto same = given_by({{"mem", "2G"},
                              {"cpus", "2"},
                              {"vsock", "/run/v,,s,cid=77"},
                              {"serial", "file:/var/log/a,b"},
                              {"balloon", "on"},
                              {"disk", "a,,b=c.img,ro,serial=007,bps=10M,iops=100"},
                              {"disk", "on,serial=12"},
                              {"disk", "x,scratch"},
                              {"net",
                               "user,hostfwd=tcp::1-:2,hostfwd=udp:0.0.0.0:3-:4,"
                               "network=10.9.0.0/16"},
                              {"net", "user,hostfwd=tcp::5-:6,hostname=on"},
                              {"net", "tap=t0,vhost=on,queues=2"},
                              {"net", "fd=5:6"},
                              {"net", "fd=7"}});
  ASSERT_TRUE(same) << same.error().message();
  EXPECT_EQ(*machine, same->machine);
}

TEST(MachineJson, AKindOfNetworkIsSaidOnce) {
  const auto why = [](const std::string& net) {
    const auto machine = machine_in(R"({"net": )" + net + "}");
    return machine ? "" : machine.error().message();
  };
  EXPECT_EQ(why(R"({"restrict": true, "user": true})"), "");
  EXPECT_EQ(why(R"({"mac": "52:54:00:12:34:56", "tap": "t0"})"), "");
  EXPECT_EQ(why(R"({"mac": "52:54:00:12:34:56", "socket": "/x"})"), "");
  EXPECT_EQ(why(R"({"mtu": 9000})"), "") << "it has no link";
  EXPECT_EQ(why(R"({"user": true, "tap": "t0"})"), "test: net: tap: a network has only one kind");
  EXPECT_EQ(why(R"({"user": false})"), "test: net: user: it can only be true, or missing");
  EXPECT_EQ(why(R"({"tap": "t0", "deny": []})"), "") << "nothing is denied";
  EXPECT_EQ(why(R"({"tap": "t0", "deny": ["10.0.0.0/8"]})"),
            "test: net: deny[0]: this key is for user networks only");
}

TEST(MachineJson, RefusesBadFiles) {
  const std::pair<std::string, const char*> cases[] = {
      {"{", "not valid JSON"},
      {R"({"kernel": "a\u0000b"})", "a text with a NUL in it"},
      {std::string(1000, '['), "nested more than 32 deep"},
      {"[]", "JSON object"},
      {R"({"kernl":"x"})", "did you mean 'kernel'"},
      {R"({"mem":[]})", "mem: invalid value []"},
      {R"({"mem":"2Q"})", "'2Q'"},
      {R"({"cpus":1.5})", "'cpus': 1.5"},
      {R"({"balloon":"yes"})", "balloon: invalid value 'yes': expected true or false"},
      {R"({"disk":[7]})", "object or a text"},
      {R"({"disk":{"path":{}}})", "path"},
      {R"({"disk":["x",{"path":"y","queues":99}]})",
       "disk[1]: queues: invalid value '99': expected a whole number from 1 to 64"},
      {R"({"serial":{"kind":"file"}})", "serial: serial kind 'file': expected a path"},
      {R"({"serial":{"kind":"file","path":"x","max":1}})", "64K or more"},
      {R"({"vsock":{"cid":2}})", "vsock: cid: invalid value '2'"},
      {R"({"pmem":["x",{"size":7}]})", "pmem[1]: size: invalid value '7': expected a multiple of"},
      {R"({"version":2})", "it has version 2, this program reads version 1"},
      {R"({"version":"1"})", "invalid version \"1\": expected 1"}};
  for (const auto& [text, part] : cases) {
    const auto machine = machine_in(text);
    ASSERT_FALSE(machine) << text;
    const auto& error = machine.error().message();
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_TRUE(error.starts_with("test")) << error;
  }
}

// ---- any machine

class RandomMachine {
 public:
  explicit RandomMachine(unsigned seed) : random_(seed) {}

  MachineConfig machine() {
    MachineConfig machine;
    set(machine.name, [this] { return text(); });
    set(machine.kernel, [this] { return text(); });
    set(machine.initrd, [this] { return text(); });
    set(machine.append, [this] { return text(); });
    set(machine.memory, [this] { return std::uint64_t{64 + below(64)} << 20; });
    set(machine.cpus, [this] { return 1 + below(4096); });
    set(machine.balloon, [] { return true; });
    set(machine.rng, [] { return true; });
    set(machine.reboot, [] { return false; });
    set(machine.control, [this] { return text(); });
    for (unsigned i = below(4); i > 0; --i) machine.disks.push_back(disk());
    for (unsigned i = below(4); i > 0; --i) machine.nets.push_back(net());
    if (coin()) machine.vsock = virtio::VsockConfig{.cid = 3 + below(100), .path = ""};
    if (machine.vsock) set(machine.vsock->path, [this] { return text(); });
    for (unsigned i = below(3); i > 0; --i) machine.pmems.push_back(pmem());
    set(machine.serial, [this] { return serial(); });
    return machine;
  }

 private:
  virtio::PmemConfig pmem() {
    virtio::PmemConfig pmem;
    set(pmem.path, [this] { return text(); });
    if (pmem.path.empty() || coin()) pmem.slot_size = (1 + below(99)) * virtio::kPmemAlignment;
    if (!pmem.path.empty()) set(pmem.format, [] { return disk::ImageFormat::vmdk; });
    return pmem;
  }
  unsigned below(unsigned limit) { return static_cast<unsigned>(random_() % limit); }
  bool coin() { return below(2) == 0; }
  template <typename T, typename Make>
  void set(T& target, Make make) {
    if (coin()) target = static_cast<T>(make());
  }
  std::string text() {
    static const std::vector<std::string> kPieces = {
        "a", ",", "=", "\"", "on", "12", "/", " ", "\\", "blk1=", "\xc3\xa4", "path=", "\n", "0"};
    std::string text;
    for (unsigned i = 1 + below(6); i > 0; --i) {
      text += kPieces[below(static_cast<unsigned>(kPieces.size()))];
    }
    return text;
  }
  chardev::SerialSpec serial() {
    chardev::SerialSpec spec;
    spec.kind = std::array{chardev::Kind::stdio, chardev::Kind::none, chardev::Kind::pty,
                           chardev::Kind::file, chardev::Kind::socket}[below(5)];
    const bool has_path = spec.kind == chardev::Kind::file || spec.kind == chardev::Kind::socket;
    if (has_path) spec.path = text();
    set(spec.max, [this] { return coin() ? 0u : 1u << (16 + below(8)); });
    return spec;
  }
  disk::DiskConfig disk() {
    disk::DiskConfig disk{.path = text()};
    disk.format = static_cast<disk::ImageFormat>(below(4));
    set(disk.slot_size, [this] { return std::uint64_t{512} * (1 + below(1000)); });
    disk.io = static_cast<disk::IoEngine>(below(3));
    set(disk.id, [this] { return fmt::format("blk{}", below(9)); });
    set(disk.read_only, [] { return true; });
    set(disk.direct, [] { return true; });
    set(disk.scratch, [] { return true; });
    set(disk.serial, [this] { return text().substr(0, 1); });
    if (!disk.serial.empty() && disk.serial[0] < 0) disk.serial = "x";
    set(disk.queues, [this] { return 1 + below(64); });
    set(disk.queue_size, [this] { return 4u << below(9); });
    set(disk.limits.bytes_per_second, [this] { return 1 + std::uint64_t{below(1u << 31)} * 5000; });
    set(disk.limits.burst_bytes, [this] { return 1 + below(5000); });
    set(disk.limits.operations_per_second, [this] { return 1 + below(5000); });
    set(disk.limits.burst_operations, [this] { return 1 + below(5000); });
    return disk;
  }
  net::MacAddress mac() {
    net::MacAddress mac;
    for (auto& byte : mac.bytes) byte = static_cast<std::uint8_t>(below(256));
    mac.bytes[0] = static_cast<std::uint8_t>((mac.bytes[0] & 0xfc) | 2);
    return mac;
  }
  virtio::NetConfig net() {
    using virtio::NetKind;
    virtio::NetConfig net;
    net.kind =
        std::array{NetKind::user, NetKind::tap, NetKind::socket, NetKind::unplugged}[below(4)];
    if (coin()) net.mac = mac();
    if (coin()) net.mtu = static_cast<std::uint16_t>(576 + below(64000));
    if (net.kind == NetKind::socket) net.socket = text();
    if (net.kind == NetKind::user) user_network(net.user);
    if (net.kind == NetKind::unplugged) set(net.queues, [this] { return 1 + below(16); });
    if (net.kind != NetKind::tap) return net;
    net.vhost = static_cast<virtio::VhostMode>(below(3));
    set(net.queues, [this] { return 1 + below(16); });
    if (coin()) {
      for (unsigned i = 0; i < net.queues; ++i) net.fds.push_back(static_cast<int>(below(1000)));
    } else {
      net.tap = text();
    }
    return net;
  }
  void user_network(user_net::Config& user) {
    static const std::array<const char*, 4> kNetworks = {"10.0.2.0/24", "10.0.0.0/8",
                                                         "192.168.7.32/27", "10.0.0.0/16"};
    if (coin()) {
      EXPECT_TRUE(user.set_network(kNetworks[below(4)]));
    }
    const auto address = [&](unsigned from) {
      return user_net::Ipv4Address{user.network.value + from + below(4)};
    };
    set(user.gateway, [&] { return address(1); });
    set(user.dns, [&] { return address(5); });
    // The same as without a network of its own, or as that network has it.
    if (user.prefix < 24 && coin()) user.gateway = user_net::ipv4(10, 0, 2, 2);
    if (!user.check()) user = {};
    set(user.hostname, [this] { return text(); });
    set(user.ipv6, [] { return true; });
    set(user.host_loopback, [] { return true; });
    set(user.restricted, [] { return true; });
    static const std::array<const char*, 3> kDenied = {"10.0.0.0/8", "fd00::/8", "1.2.3.4"};
    for (unsigned i = below(3); i > 0; --i) {
      user.denied.push_back(user_net::IpNetwork::parse(kDenied[below(3)]).value());
    }
    for (unsigned i = below(3); i > 0; --i) {
      const auto port = 1 + below(60000);
      const auto count = below(3);
      const auto text =
          fmt::format("{}:{}:{}-{}-:{}-{}", coin() ? "tcp" : "udp", coin() ? "" : "0.0.0.0", port,
                      port + count, port + 7, port + 7 + count);
      user.forwards.push_back(user_net::HostForward::parse(text).value());
    }
  }

  std::mt19937 random_;
};

TEST(MachineJson, AnyMachineIsTheSameThroughItsJson) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    const auto machine = RandomMachine(seed).machine();
    const auto text = to_json_text(machine);
    ASSERT_TRUE(text) << text.error().message();
    const auto read = machine_in(*text);
    ASSERT_TRUE(read) << read.error().message() << "\n" << *text;
    ASSERT_EQ(*read, machine) << seed << "\n" << *text;
    ASSERT_EQ(to_json_text(*read).value(), *text) << seed;
  }
  // What is compared is compared.
  EXPECT_NE(RandomMachine(1).machine(), RandomMachine(2).machine());
}

// ---- manifests

TEST(ManifestTexts, SayApartWhatTheGuestSees) {
  auto machine = machine_of({{"mem", "1G"},
                             {"name", "first"},
                             {"initrd", "/initrd"},
                             {"disk", "/root.img,format=raw,direct,queues=2"},
                             {"disk", "/data.img,ro,scratch,serial=X"},
                             {"net", "user,network=10.9.0.0/16,hostfwd=tcp::1-:2,loopback=on"},
                             {"net", "tap=t0,mac=52:54:00:12:34:56,queues=2,vhost=off"},
                             {"net", "unplugged"},
                             {"vsock", "/run/v,cid=9"},
                             {"serial", "file:/console"},
                             {"control", "/control"}});
  ASSERT_TRUE(machine) << machine.error().message();
  machine->kernel = "/boot/../vmlinux";
  const auto texts = to_manifest_texts(*machine);
  ASSERT_TRUE(texts) << texts.error().message();
  EXPECT_EQ(texts->config, R"({
  "version": 1,
  "mem": 1073741824,
  "disk": [
    {
      "format": "raw",
      "queues": 2
    },
    {
      "ro": true,
      "serial": "X"
    }
  ],
  "net": [
    {
      "user": true,
      "network": "10.9.0.0/16"
    },
    {
      "queues": 2
    },
    {}
  ],
  "vsock": {
    "cid": 9
  },
  "name": "first"
})");
  for (const auto part : {"\"kernel\": \"/vmlinux\"", "/initrd", "/root.img", "direct", "/data.img",
                          "scratch", "tcp:127.0.0.1:1-:2", "loopback", "t0", "52:54:00:12:34:56",
                          "vhost", "unplugged", "/run/v", "/console", "/control"}) {
    EXPECT_NE(texts->attachments.find(part), std::string::npos) << part << texts->attachments;
  }
  const auto saved = from_manifest_texts(*texts, "test");
  ASSERT_TRUE(saved) << saved.error().message();
  machine->kernel = "/vmlinux";
  EXPECT_EQ(saved->attached, *machine);
  EXPECT_EQ(saved->machine.name, "first");
  EXPECT_EQ(saved->machine.kernel, "");
  EXPECT_EQ(saved->machine.nets.at(1).kind, virtio::NetKind::unplugged);
  EXPECT_EQ(saved->machine.nets.at(1).queues, 2u);
  EXPECT_EQ(saved->machine.nets.at(0).user.network, user_net::ipv4(10, 9, 0, 0));
  EXPECT_TRUE(saved->machine.nets.at(0).user.forwards.empty());
  EXPECT_EQ(from_manifest_texts({texts->config, R"({"net": 7})"}, "test").error().message(),
            "test: net: invalid value 7: expected an object or a text");
}

TEST(ManifestTexts, BothSidesAreTheMachine) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    auto machine = RandomMachine(seed).machine();
    // What is told to whoever works elsewhere are absolute paths.
    for (auto* path : {&machine.kernel, &machine.initrd, &machine.serial.path, &machine.control}) {
      if (!path->empty()) *path = "/x";
    }
    for (const auto& kind : device_kinds()) {
      if (kind.paths == nullptr) continue;
      for (auto* path : kind.paths(machine)) {
        if (!path->empty()) *path = "/x";
      }
    }
    const auto texts = to_manifest_texts(machine);
    ASSERT_TRUE(texts) << texts.error().message();
    const auto saved = from_manifest_texts(*texts, "test");
    ASSERT_TRUE(saved) << saved.error().message() << texts->config << texts->attachments;
    ASSERT_EQ(saved->attached, machine) << texts->config << texts->attachments;
    // Nothing of the host is left: what is known of the guest alone says the same again.
    const auto again = to_manifest_texts(saved->machine);
    ASSERT_EQ(again->config, texts->config);
  }
}

// ---- options

TEST(GivenMachine, OptionsOverrideTheFileAndDevicesAddUp) {
  GivenMachine given;
  ASSERT_TRUE(take_text(given, R"({"kernel":"a","mem":"1G","disk":"x"})", "test"));
  ASSERT_TRUE(take_option(given, "mem", "2G"));
  ASSERT_TRUE(take_option(given, "disk", "y,ro"));
  EXPECT_EQ(given.machine.memory, 2ull << 30);
  EXPECT_EQ(given.machine.kernel, "a");
  ASSERT_EQ(given.machine.disks.size(), 2u);
  EXPECT_EQ(given.machine.disks[0].path, "x");
  EXPECT_EQ(given.machine.disks[1].path, "y");
  EXPECT_TRUE(given.has("mem"));
  EXPECT_FALSE(given.has("cpus"));
}

TEST(GivenMachine, RefusesWithTheValue) {
  EXPECT_NE(to_machine({}).error().message().find("--kernel"), std::string::npos);
  const auto check = [](const char* key, const char* value, const char* part) {
    const auto error = error_of({{key, value}});
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  check("mem", "0", "'0' is too little");
  check("mem", "2Q", "--mem: invalid size '2Q'");
  check("mem", "100000T", "more than this host's memory");
  check("mem", "134217729", "multiple of 1M");
  check("cpus", "0", "--cpus: invalid value '0': expected a whole number from 1 to 4096");
  check("cpus", "many", "'many'");
  check("serial", "tty", "'tty'");
  check("vsock", "", "vsock '': a word is empty");
  check("disk", "x,id=blk0", "'blk0' needs --restore");
  GivenMachine without_path;
  ASSERT_TRUE(take_text(without_path, R"({"kernel": "k", "disk": {"ro": true}})", "test"));
  EXPECT_EQ(to_machine(without_path).error().message(),
            "disk 0: a path is missing: --disk PATH[,ro]");
}

TEST(GivenMachine, RefusesADiskThatIsGivenTwice) {
  const auto error_with = [](const std::vector<std::string>& disks) {
    Words words;
    for (const auto& disk : disks) words.emplace_back("disk", disk);
    return error_of(words);
  };
  EXPECT_NE(error_with({"/dev/null", "x", "/dev/../dev/null"}).find("is given twice"),
            std::string::npos);
  EXPECT_NE(error_with({"none", "none,ro"}).find("'none' is given twice"), std::string::npos);
  EXPECT_EQ(error_with({"x,ro", "x,ro"}), "no error");
  EXPECT_EQ(error_with({"x,scratch", "x,scratch", "y"}), "no error");
}

}  // namespace
}  // namespace vmm::config
