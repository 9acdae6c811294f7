// Golden trees: their bytes by digest, and, where dtc is installed, as the text that it makes of
// them (testdata/*.dts), which it must do without a warning.
#include "firmware/fdt/tree.h"

#include <gtest/gtest.h>
#include <libfdt.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace vmm::fdt {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kGiB = 1u << 30;

Platform sample(unsigned cpus) {
  using Device = PlatformDevice;
  Platform platform;
  for (unsigned i = 0; i < cpus; ++i) {
    platform.cpus.push_back({.affinity = (i & 15u) | (i >> 4) << 8});
  }
  platform.gic = Platform::Gic{.distributor = {0x800'0000, 0x1'0000},
                               .redistributors = {0xa00'0000, 0x2'0000 * std::uint64_t{cpus}},
                               .its = {0x802'0000, 0x2'0000}};
  platform.timer = Platform::Timer{};
  platform.psci = true;
  platform.pci = Platform::PciHost{
      .ecam_base = 0x3f00'0000, .last_bus = 0, .mmio32 = {0x1000'0000, 0x2f00'0000}};
  platform.devices = {
      {.name = "COM1",
       .resources = {Device::Mmio32{0xe00'0000, 0x1000},
                     Device::Interrupt{.gsi = 1, .trigger = Device::Trigger::level}},
       .node = Device::TreeNode{.name = "serial",
                                .compatible = {"arm,pl011", "arm,primecell"},
                                .clocks = {"uartclk", "apb_pclk"}}},
      {.name = "RTC0",
       .resources = {Device::Mmio32{0xe01'0000, 0x1000}},
       .node = Device::TreeNode{.name = "rtc",
                                .compatible = {"arm,pl031", "arm,primecell"},
                                .clocks = {"apb_pclk"}}},
      {.name = "PEVT",
       .resources = {Device::Mmio32{0xe02'0000, 2}},
       .node =
           Device::TreeNode{.name = "pvpanic", .compatible = {"qemu,pvpanic-mmio"}, .clocks = {}}}};
  platform.console = "COM1";
  platform.generation_id_address = 0x401f'f000;
  platform.power_key = Device::Interrupt{.gsi = 2};
  platform.generation_changed = Device::Interrupt{.gsi = 3};
  return platform;
}

Start small() {
  return {.ram = {{GuestAddress{kGiB}, 256u << 20}},
          .command_line = "console=ttyAMA0 quiet",
          .initrd = {},
          .random_seed = {}};
}

// Beyond 4 GiB, with everything that is optional.
Start large() {
  Start start{.ram = {{GuestAddress{kGiB}, 8 * kGiB}},
              .command_line = "root=/dev/vda rw",
              .initrd = MemoryRange{GuestAddress{0x8000'0000}, 1'234'567},
              .random_seed = {}};
  for (unsigned i = 0; i < 40; ++i) start.random_seed.push_back(std::byte(i + 1));
  return start;
}

// Without what a machine need not have.
Platform bare() {
  Platform platform = sample(1);
  platform.devices.clear();
  platform.console.clear();
  platform.pci.reset();
  platform.power_key.reset();
  platform.generation_id_address.reset();
  return platform;
}

std::uint64_t digest(std::span<const std::byte> bytes) {  // FNV-1a
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::byte b : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3;
  return hash;
}

std::string property(const std::vector<std::byte>& tree, const char* path, const char* name) {
  const int node = ::fdt_path_offset(tree.data(), path);
  int length = 0;
  const void* value = node < 0 ? nullptr : ::fdt_getprop(tree.data(), node, name, &length);
  return value == nullptr
             ? "none"
             : std::string(static_cast<const char*>(value), static_cast<std::size_t>(length));
}

struct Outcome {
  int status = -1;
  std::string text;
};

Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return outcome;
  char line[4096];
  while (std::fgets(line, sizeof line, pipe) != nullptr) outcome.text += line;
  outcome.status = ::pclose(pipe);
  return outcome;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void check_with_dtc(const std::vector<std::byte>& tree, const std::string& golden) {
  std::string directory = fs::temp_directory_path() / "vmm-fdt-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string blob = directory + "/tree.dtb";
  const std::string words = directory + "/words";
  std::ofstream(blob, std::ios::binary)
      .write(reinterpret_cast<const char*>(tree.data()), static_cast<std::streamsize>(tree.size()));
  const Outcome text = run("dtc -I dtb -O dts " + blob + " 2>" + words);
  const std::string warnings = read_file(words);
  std::error_code ignored;
  fs::remove_all(directory, ignored);
  ASSERT_EQ(text.status, 0) << warnings;
  EXPECT_EQ(warnings, "");
  const fs::path expected = fs::path(VMM_TESTDATA) / golden;
  if (::getenv("VMM_UPDATE_GOLDEN") != nullptr) std::ofstream(expected) << text.text;
  EXPECT_EQ(text.text, read_file(expected));
}

TEST(DeviceTree, IsTheSameAlways) {
  const auto tree = build_tree(sample(2), small());
  ASSERT_TRUE(tree) << tree.error().message();
  EXPECT_EQ(::fdt_check_header(tree->data()), 0);
  EXPECT_EQ(tree_size(*tree), tree->size());
  EXPECT_EQ(tree_size(std::span(*tree).first(100)), 100u);
  EXPECT_EQ(tree_size(std::span(*tree).subspan(4)), 0u);
  EXPECT_EQ(tree_size({}), 0u);
  EXPECT_EQ(digest(*tree), 0x410b2bb34a9d071eu) << std::hex << digest(*tree);
}

TEST(DeviceTree, SaysWhatTheKernelIsStartedWith) {
  const auto tree = build_tree(sample(1), large());
  ASSERT_TRUE(tree) << tree.error().message();
  EXPECT_EQ(property(*tree, "/chosen", "bootargs"), std::string("root=/dev/vda rw\0", 17));
  EXPECT_EQ(property(*tree, "/chosen", "stdout-path"), std::string("/serial@e000000\0", 16));
  EXPECT_EQ(property(*tree, "/chosen", "linux,initrd-end"),
            std::string("\0\0\0\0\x80\x12\xd6\x87", 8));
  EXPECT_EQ(property(*tree, "/chosen", "kaslr-seed"), "\1\2\3\4\5\6\7\10");
  EXPECT_EQ(property(*tree, "/chosen", "rng-seed").size(), 32u);
  const auto without = build_tree(sample(1), small());
  ASSERT_TRUE(without);
  for (const char* name : {"linux,initrd-start", "kaslr-seed", "rng-seed"}) {
    EXPECT_EQ(property(*without, "/chosen", name), "none") << name;
  }
}

TEST(DeviceTree, DtcTakesThemWithoutAWarning) {
  if (run("dtc --version 2>&1").status != 0) GTEST_SKIP() << "dtc is not installed";
  check_with_dtc(*build_tree(sample(1), small()), "small.dts");
  check_with_dtc(*build_tree(sample(20), large()), "large.dts");
  check_with_dtc(*build_tree(bare(), small()), "bare.dts");
}

TEST(DeviceTree, RefusesWhatNoTreeCanSay) {
  const auto refused = [](const Platform& platform, const Start& start, std::string_view words) {
    const auto tree = build_tree(platform, start);
    ASSERT_FALSE(tree);
    EXPECT_NE(tree.error().message().find(words), std::string::npos) << tree.error().message();
  };
  Platform platform = sample(1);
  platform.cpus.clear();
  refused(platform, small(), "needs a processor");
  platform = sample(2);
  platform.cpus[1].affinity = 0;
  refused(platform, small(), "taken twice");
  platform = sample(1);
  platform.gic.reset();
  refused(platform, small(), "interrupt controller");
  platform = sample(1);
  platform.devices[1].resources.clear();
  refused(platform, small(), "'RTC0' has a node of the device tree, but no registers");
  platform = sample(1);
  platform.console = "COM2";
  refused(platform, small(), "the console 'COM2'");
  Start start = small();
  start.ram.clear();
  refused(sample(1), start, "needs memory");
  start = small();
  start.command_line = std::string("a\0b", 3);
  refused(sample(1), start, "NUL");
  start.command_line = std::string(kMaxTreeSize, 'x');
  refused(sample(1), start, "cannot be written");
}

}  // namespace
}  // namespace vmm::fdt
