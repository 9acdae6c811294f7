#include "src/hypervisor/machine/slots.h"

#include <gtest/gtest.h>

namespace vmm {
namespace {

using What = SlotRequest::What;

MachineConfig machine() {
  MachineConfig config;
  config.disks = {{.path = "root.img"},
                  {.slot_size = 1u << 30},
                  {.path = "image.erofs", .slot_size = 1u << 30, .read_only = true}};
  config.rng = true;
  return config;
}

SlotRequest request(What what, std::string component, std::string words = "") {
  SlotRequest request{.what = what, .component = std::move(component), .attachment = {}};
  if (!words.empty()) request.attachment = spec::Value(std::move(words));
  return request;
}

std::string why_not(const SlotRequest& request) {
  auto config = machine();
  const auto applied = apply(request, config);
  EXPECT_TRUE(applied || config == machine()) << "changed, though it was refused";
  return applied ? "" : applied.error().message();
}

TEST(Slots, ComponentsByName) {
  EXPECT_EQ(component_named("blk0")->index, 0u);
  EXPECT_EQ(component_named("blk17")->index, 17u);
  EXPECT_EQ(component_named("vsock")->kind->name, "vsock");
  for (const char* name : {"", "blk", "blk01", "blk+1", "blk-1", "blk1x", "vsock0", "disk0",
                           "blk99999999999999999999"}) {
    EXPECT_FALSE(component_named(name)) << name;
  }
}

TEST(Slots, AreFilledEmptiedAndFilledAgain) {
  auto config = machine();
  ASSERT_TRUE(apply(request(What::attach, "blk1", "a.qcow2,format=qcow2"), config));
  EXPECT_EQ(config.disks[1],
            (disk::DiskConfig{
                .path = "a.qcow2", .slot_size = 1u << 30, .format = disk::ImageFormat::qcow2}));
  ASSERT_TRUE(apply(request(What::replace, "blk1", "b.img,io=threads"), config));
  EXPECT_EQ(config.disks[1].path, "b.img");
  EXPECT_EQ(config.disks[1].format, disk::ImageFormat::automatic);
  ASSERT_TRUE(apply(request(What::detach, "blk1"), config));
  EXPECT_EQ(config, machine());
  // By keys.
  SlotRequest keys{.component = "blk1", .attachment = {}};
  keys.attachment = spec::Value(spec::Object{{"path", spec::Value(std::string("c.img"))}});
  ASSERT_TRUE(apply(keys, config));
  EXPECT_EQ(config.disks[1].path, "c.img");
}

TEST(Slots, CardsAndVsockAreSlots) {
  auto config = machine();
  config.nets.push_back(virtio::parse_net_config("unplugged,mac=52:54:00:12:34:56").value());
  config.vsock = virtio::VsockConfig{.cid = 9, .path = ""};
  const auto before = config;
  ASSERT_TRUE(apply(request(What::attach, "net0", "user,hostfwd=tcp::8080-:80"), config));
  EXPECT_EQ(config.nets[0].kind, virtio::NetKind::user);
  EXPECT_EQ(config.nets[0].mac, before.nets[0].mac);
  ASSERT_TRUE(apply(request(What::attach, "vsock", "/run/vsock"), config));
  EXPECT_EQ(*config.vsock, (virtio::VsockConfig{.cid = 9, .path = "/run/vsock"}));
  EXPECT_EQ(apply(request(What::resize, "net0"), config).error().message(), "net0 has no size");
  EXPECT_EQ(apply(request(What::replace, "vsock", "/x,cid=8"), config).error().message(),
            "the guest's address is 9, and stays");
  ASSERT_TRUE(apply(request(What::detach, "net0"), config));
  ASSERT_TRUE(apply(request(What::detach, "vsock"), config));
  EXPECT_EQ(config, before);
}

SlotRequest of_ports(What what, std::vector<std::string> ports, std::string component = "net0") {
  return {
      .what = what, .component = std::move(component), .attachment = {}, .ports = std::move(ports)};
}

TEST(Slots, PortsOfANetworkComeAndGo) {
  MachineConfig config;
  config.nets.push_back(virtio::parse_net_config("user,hostfwd=tcp::8080-:80").value());
  const auto before = config;
  ASSERT_TRUE(apply(of_ports(What::publish, {"tcp::9000-9009-:1000-1009", "udp::53-:53"}), config));
  EXPECT_EQ(config.nets[0].user.forwards.size(), 3u);
  ASSERT_TRUE(
      apply(of_ports(What::unpublish, {"udp::53", "tcp::9000-9004", "tcp::9005-9009"}), config));
  EXPECT_EQ(config, before);
}

TEST(Slots, RefusedPortsAreNamedAndChangeNothing) {
  MachineConfig before;
  before.nets.push_back(virtio::parse_net_config("user,hostfwd=tcp::8080-8089-:80-89").value());
  before.nets.push_back(virtio::parse_net_config("tap=t0").value());
  before.nets.push_back(virtio::parse_net_config("unplugged").value());
  before.disks = {{.slot_size = 1u << 30, .read_only = true}};
  before.disks[0].path = "x";
  const std::pair<SlotRequest, const char*> cases[] = {
      {of_ports(What::publish, {"tcp::8000-:80", "tcp::8085-:80"}),
       "tcp:127.0.0.1:8085 is published already, as tcp:127.0.0.1:8080-8089-:80-89"},
      {of_ports(What::publish, {"tcp::7000-:80", "tcp::7000-:81"}),
       "tcp:127.0.0.1:7000 is published already, as tcp:127.0.0.1:7000-:80"},
      {of_ports(What::publish, {"8080"}),
       "'8080' is not a forwarded port: tcp:[ADDRESS]:PORT-[ADDRESS]:PORT is, such as "
       "tcp::8080-:80, tcp::8000-8010-:8000-8010 or tcp:[::1]:8080-:80"},
      {of_ports(What::publish, {"tcp::20000-21014-:20000-21014"}),
       "1025 forwarded ports: expected at most 1024"},
      {of_ports(What::publish, {"tcp::9000-10.9.0.1:80"}),
       "forwarded port 'tcp:127.0.0.1:9000-10.9.0.1:80': 10.9.0.1 is outside of the network "
       "10.0.2.0/24"},
      {of_ports(What::unpublish, {"tcp::8080", "tcp::8090"}),
       "tcp:127.0.0.1:8090 is not published"},
      {of_ports(What::unpublish, {"udp::8080"}), "udp:127.0.0.1:8080 is not published"},
      {of_ports(What::unpublish, {"tcp::8080-:80"}),
       "'tcp::8080-:80' is not a port of the host: tcp:[ADDRESS]:PORT is, such as tcp::8080, "
       "tcp::8000-8010 or tcp:[::1]:8080"},
      {of_ports(What::publish, {"tcp::1-:1"}, "net1"),
       "net1 is not a network of kind user: only these publish ports"},
      {of_ports(What::unpublish, {"tcp::1"}, "net1"),
       "net1 is not a network of kind user: only these publish ports"},
      {of_ports(What::publish, {"tcp::1-:1"}, "net2"), "nothing is attached to net2"},
      {of_ports(What::publish, {"tcp::1-:1"}, "net3"),
       "no component 'net3': the machine has blk0, net0, net1, net2"},
      {of_ports(What::publish, {"tcp::1-:1"}, "blk0"),
       "blk0 is not a network: no port is published"},
  };
  for (const auto& [request, message] : cases) {
    auto config = before;
    const auto applied = apply(request, config);
    ASSERT_FALSE(applied) << message;
    EXPECT_EQ(applied.error().message(), message);
    EXPECT_EQ(config, before) << message;
  }
}

// It would be told that another process uses it, which is this one.
TEST(Slots, WhatIsThereAlreadyIsDetachedFirst) {
  auto config = machine();
  config.nets.push_back(virtio::parse_net_config("unplugged").value());
  config.vsock = virtio::VsockConfig{.cid = 9, .path = ""};
  const std::pair<const char*, const char*> cases[] = {
      {"blk1", "/images/a.img"},
      {"net0", "user,hostfwd=tcp::8080-:80"},
      {"vsock", "/run/vsock"},
  };
  for (const auto& [component, words] : cases) {
    ASSERT_TRUE(apply(request(What::attach, component, words), config));
    const auto again = apply(request(What::replace, component, words), config);
    ASSERT_FALSE(again) << component;
    EXPECT_TRUE(again.error().message().ends_with("already: detach it first"))
        << again.error().message();
  }
  EXPECT_TRUE(apply(request(What::replace, "net0", "user,hostfwd=tcp::8081-:80"), config));
  EXPECT_TRUE(apply(request(What::replace, "blk2", "image.erofs"), config))
      << "what is only read is open as often as one likes";
}

TEST(Slots, RefusalsAreOneSentence) {
  const std::pair<SlotRequest, const char*> cases[] = {
      {request(What::attach, "blk9", "x"),
       "no component 'blk9': the machine has blk0, blk1, blk2, rng"},
      {request(What::attach, "disk", "x"),
       "no component 'disk': the machine has blk0, blk1, blk2, rng"},
      {request(What::attach, "rng", "x"),
       "rng is not a slot: nothing of the host is attached to it"},
      {request(What::replace, "blk0", "x"),
       "blk0 is not a slot, and stays as it is: --disk PATH,size=SIZE makes a slot, "
       "--disk size=SIZE an empty one"},
      {request(What::attach, "blk2", "x"),
       "something is attached to blk2: detach it, or replace it"},
      {request(What::detach, "blk1"), "nothing is attached to blk1"},
      {request(What::replace, "blk1", "x"), "nothing is attached to blk1"},
      {request(What::resize, "blk1"), "nothing is attached to blk1"},
      {request(What::attach, "blk1", "x,bps=1M"),
       "disk 'x': of what is attached only path, format, ro, rw, scratch, direct and io can be "
       "said: the slot has the rest"},
      {request(What::attach, "blk1", "x,ro"),
       "disk 'x': ',ro' is for a slot that has it: this guest may write to its disk"},
      {request(What::attach, "blk1", "x,scratch"),
       "disk 'x': scratch is for the start of a machine: what is written would be gone when its "
       "guest resets"},
      {request(What::attach, "blk1", "size=1M"),
       "disk '': of what is attached only path, format, ro, rw, scratch, direct and io can be "
       "said: the slot has the rest"},
      {request(What::attach, "blk1", "x,format=floppy"),
       "disk 'x,format=floppy': format: invalid value 'floppy': expected raw, qcow2 or vmdk"},
  };
  for (const auto& [request, message] : cases) EXPECT_EQ(why_not(request), message);
  SlotRequest number{.component = "blk1", .attachment = spec::Value(std::uint64_t{7})};
  EXPECT_EQ(why_not(number), "invalid value 7: expected an object or a text");
  number.attachment = spec::Value(spec::Object{});
  EXPECT_EQ(why_not(number), "a path is missing: it says which disk is attached");
}

}  // namespace
}  // namespace vmm
