// Golden tables: their bytes by digest, the DSDT by its disassembly (testdata/dsdt.dsl), and, where
// iasl is installed, by disassembling and recompiling them, which must give the same bytes.
#include "firmware/acpi/tables.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "firmware/acpi/table.h"

namespace vmm::acpi {
namespace {

namespace fs = std::filesystem;

constexpr GuestAddress kBase{0xe0000};

Platform sample(std::uint32_t cpus) {
  using Device = PlatformDevice;
  Platform platform;
  for (std::uint32_t i = 0; i < cpus; ++i) platform.cpus.push_back({i});
  platform.pci = Platform::PciHost{.ecam_base = 0xe0000000,
                                   .last_bus = 0,
                                   .mmio32 = {0xc0000000, 0x20000000},
                                   .mmio64 = {0x4000000000, 0x1000000000}};
  platform.devices = {
      {.name = "COM1",
       .acpi_hid = "PNP0501",
       .resources = {Device::IoPorts{0x3f8, 8}, Device::Interrupt{.gsi = 4}}},
      {.name = "RTC_",
       .acpi_hid = "PNP0B00",
       .resources = {Device::IoPorts{0x70, 2}, Device::Interrupt{.gsi = 8}}},
      {.name = "PEVT", .acpi_hid = "QEMU0001", .resources = {Device::IoPorts{0x505, 1}}},
      {.name = "MMIO",
       .acpi_hid = "LNRO0005",
       .acpi_cid = "PNP0501",
       .uid = 7,
       .resources = {Device::Mmio32{0xd0000000, 0x1000},
                     Device::Interrupt{.gsi = 20,
                                       .trigger = Device::Trigger::level,
                                       .polarity = Device::Polarity::active_low}}}};
  platform.generation_id_address = 0xef000;
  platform.events = Platform::EventDevice{.power_button = 1,
                                          .generation_changed = 2,
                                          .interrupt = {.gsi = 9},
                                          .status = {PlatformRegister::Space::io, 0x600}};
  platform.reset = Platform::Reset{{PlatformRegister::Space::io, 0x604}, 1};
  platform.sleep = Platform::Sleep{.power_off_type = 5,
                                   .control = {PlatformRegister::Space::io, 0x608},
                                   .status = {PlatformRegister::Space::io, 0x60c}};
  return platform;
}

std::uint64_t digest(std::span<const std::byte> bytes) {  // FNV-1a
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::byte b : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3;
  return hash;
}

unsigned sum(std::span<const std::byte> bytes) {
  unsigned total = 0;
  for (std::byte b : bytes) total += std::to_integer<unsigned>(b);
  return total & 0xff;
}

// Walks from the RSDP as a guest does; every pointer, length and checksum is looked at.
std::map<std::string, std::span<const std::byte>> walk(const Tables& tables) {
  std::map<std::string, std::span<const std::byte>> found;
  const std::span<const std::byte> all(tables.bytes);
  const auto table_at = [&](std::uint64_t address) -> std::span<const std::byte> {
    const std::uint64_t offset = address - tables.base.value;
    EXPECT_LT(offset + 36, all.size());
    const auto table = all.subspan(offset, get_le<std::uint32_t>(all, offset + 4));
    EXPECT_EQ(sum(table), 0u);
    EXPECT_EQ(address % 16, 0u);
    return table;
  };
  const auto signature = [](std::span<const std::byte> table) {
    return std::string(reinterpret_cast<const char*>(table.data()), 4);
  };
  const auto rsdp = all.subspan(tables.rsdp.value - tables.base.value, 36);
  EXPECT_EQ(std::memcmp(rsdp.data(), "RSD PTR ", 8), 0);
  EXPECT_EQ(sum(rsdp.first(20)), 0u);
  EXPECT_EQ(sum(rsdp), 0u);
  const auto xsdt = table_at(get_le<std::uint64_t>(rsdp, 24));
  EXPECT_EQ(signature(xsdt), "XSDT");
  found["XSDT"] = xsdt;
  for (std::size_t at = 36; at < xsdt.size(); at += 8) {
    const auto table = table_at(get_le<std::uint64_t>(xsdt, at));
    found[signature(table)] = table;
  }
  found["DSDT"] = table_at(get_le<std::uint64_t>(found.at("FACP"), 140));
  EXPECT_EQ(signature(found["DSDT"]), "DSDT");
  return found;
}

TEST(AcpiTables, AreWhatTheyWere) {
  struct Golden {
    std::uint32_t cpus;
    std::size_t size;
    std::uint64_t digest;
  };
  // A change here is a change of the machine that guests see.
  for (const Golden& golden :
       {Golden{1, 1292, 13768208237662467715u}, Golden{4, 1324, 472989110359738485u},
        Golden{300, 4044, 6896187328110626303u}}) {
    const auto tables = build_tables(sample(golden.cpus), kBase);
    ASSERT_TRUE(tables) << tables.error().message();
    EXPECT_EQ(tables->bytes.size(), golden.size) << golden.cpus;
    EXPECT_EQ(digest(tables->bytes), golden.digest) << golden.cpus;
    EXPECT_EQ(build_tables(sample(golden.cpus), kBase)->bytes, tables->bytes);
    EXPECT_EQ(walk(*tables).size(), 5u);
  }
}

TEST(AcpiTables, ProcessorsByTheirId) {
  const auto tables = build_tables(sample(300), kBase);
  ASSERT_TRUE(tables);
  const auto madt = walk(*tables).at("APIC");
  EXPECT_EQ(get_le<std::uint32_t>(madt, 36), 0xfee00000u);
  EXPECT_EQ(get_le<std::uint32_t>(madt, 40), 0u);  // PCAT_COMPAT clear
  std::map<unsigned, unsigned> kinds;
  std::size_t at = 44;
  while (at < madt.size()) {
    ++kinds[std::to_integer<unsigned>(madt[at])];
    at += std::to_integer<unsigned>(madt[at + 1]);
  }
  EXPECT_EQ(at, madt.size());
  EXPECT_EQ(kinds, (std::map<unsigned, unsigned>{{0, 255}, {1, 1}, {9, 45}}));
}

TEST(AcpiTables, FixedDescription) {
  const auto with = build_tables(sample(1), kBase);
  const auto fadt = walk(*with).at("FACP");
  EXPECT_EQ(fadt.size(), 276u);
  EXPECT_EQ(get_le<std::uint16_t>(fadt, 109), 0x14);         // an RTC, no VGA, no 8042
  EXPECT_EQ(get_le<std::uint32_t>(fadt, 112), 0x00100435u);  // hardware-reduced, reset
  EXPECT_EQ(get_le<std::uint64_t>(fadt, 116 + 4), 0x604u);
  EXPECT_EQ(std::to_integer<int>(fadt[128]), 1);
  EXPECT_EQ(get_le<std::uint64_t>(fadt, 244 + 4), 0x608u);
  EXPECT_EQ(get_le<std::uint64_t>(fadt, 256 + 4), 0x60cu);

  Platform bare = sample(1);
  bare.devices.clear();
  bare.reset.reset();
  bare.sleep.reset();
  const auto without = build_tables(bare, kBase);
  const auto other = walk(*without).at("FACP");
  EXPECT_EQ(get_le<std::uint16_t>(other, 109), 0x34);
  EXPECT_EQ(get_le<std::uint32_t>(other, 112), 0x00100035u);
}

TEST(AcpiTables, RefusesWhatTheyCannotSay) {
  const auto refused = [](auto change) {
    Platform platform = sample(1);
    change(platform);
    const auto tables = build_tables(platform, kBase);
    return tables ? std::string("accepted") : tables.error().message();
  };
  EXPECT_EQ(refused([](Platform& p) { p.devices[0].name = "com1"; }),
            "the device name 'com1' is not of four characters A-Z, 0-9 or _, no digit first");
  EXPECT_EQ(refused([](Platform& p) { p.devices[1].name = "COM1"; }),
            "the device name 'COM1' is taken twice");
  EXPECT_EQ(refused([](Platform& p) { p.devices[1].name = "PCI0"; }),
            "the device name 'PCI0' is taken twice");
  EXPECT_EQ(refused([](Platform& p) { p.devices[0].acpi_hid = "a\"b"; }),
            "device 'COM1': the hardware id 'a\"b' is not of 1 to 16 letters and digits");
  EXPECT_EQ(
      refused([](Platform& p) { p.devices[0].resources = {PlatformDevice::IoPorts{0xffff, 2}}; }),
      "device 'COM1': ports 0xffff+0x2 are not within 0..0xffff");
  EXPECT_EQ(refused([](Platform& p) {
              p.devices[0].resources = {PlatformDevice::Mmio32{0xffffffff, 2}};
            }),
            "device 'COM1': memory 0xffffffff+0x2 is not within the first 4 GiB");
  EXPECT_EQ(refused([](Platform& p) { p.cpus.clear(); }),
            "0 processors are not between 1 and 4096");
  EXPECT_EQ(refused([](Platform& p) { p.cpus.push_back({0}); }), "the APIC id 0 is taken twice");
  EXPECT_EQ(refused([](Platform& p) { p.pci->ecam_base = 0x1000; }),
            "the PCI configuration space at 0x1000 is not aligned to 1 MiB");
  EXPECT_EQ(refused([](Platform& p) { p.pci->mmio32.size = UINT64_MAX; }),
            "the PCI window 0xc0000000+0xffffffffffffffff does not end below 0x100000000");
  EXPECT_FALSE(build_tables(sample(1), GuestAddress{0xe0010}));
}

// --- iasl ---

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = fs::temp_directory_path() / "vmm-acpi-XXXXXX";
    path_ = ::mkdtemp(name.data()) != nullptr ? name : "";
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  fs::path path() const { return path_; }

 private:
  fs::path path_;
};

struct Outcome {
  int status = -1;
  std::string text;
};

Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "re");
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

// Without the comment of the disassembler, which names its version and the time.
std::string without_preamble(const std::string& text) {
  const std::size_t start = text.find("DefinitionBlock");
  return start == std::string::npos ? text : text.substr(start);
}

void check_with_iasl(std::uint32_t cpus, const Platform& platform) {
  const TemporaryDirectory directory;
  const auto tables = build_tables(platform, kBase);
  ASSERT_TRUE(tables);
  for (const auto& [signature, table] : walk(*tables)) {
    const fs::path binary = directory.path() / (signature + ".dat");
    std::ofstream(binary, std::ios::binary)
        .write(reinterpret_cast<const char*>(table.data()),
               static_cast<std::streamsize>(table.size()));
    const std::string in = "cd " + directory.path().string() + " && ";
    const Outcome disassembly = run(in + "iasl -d " + binary.string());
    ASSERT_EQ(disassembly.status, 0) << signature << ": " << disassembly.text;
    EXPECT_EQ(disassembly.text.find("Warning"), std::string::npos) << disassembly.text;
    EXPECT_EQ(disassembly.text.find("rror"), std::string::npos) << disassembly.text;

    const Outcome compilation = run(in + "iasl -oa -p again " + signature + ".dsl");
    EXPECT_EQ(compilation.status, 0) << signature << ": " << compilation.text;
    EXPECT_NE(compilation.text.find("0 Errors, 0 Warnings"), std::string::npos)
        << signature << ": " << compilation.text;
    // The compiler leaves its own name and version in the header.
    const std::string again = read_file(directory.path() / "again.aml");
    ASSERT_EQ(again.size(), table.size()) << signature;
    EXPECT_EQ(std::memcmp(again.data() + kTableHeaderSize, table.data() + kTableHeaderSize,
                          table.size() - kTableHeaderSize),
              0)
        << signature;
    if (signature == "DSDT" && cpus == 1) {
      const std::string text = without_preamble(read_file(directory.path() / (signature + ".dsl")));
      if (::getenv("VMM_UPDATE_GOLDEN") != nullptr) {
        std::ofstream(fs::path(VMM_TESTDATA) / "dsdt.dsl") << text;
      }
      EXPECT_EQ(text, read_file(fs::path(VMM_TESTDATA) / "dsdt.dsl"));
    }
  }
}

TEST(AcpiTables, IaslTakesThem) {
  if (run("iasl -v").status != 0) GTEST_SKIP() << "iasl is not installed";
  for (std::uint32_t cpus : {1u, 4u, 300u}) check_with_iasl(cpus, sample(cpus));
  // With everything where 32 bits do not reach.
  Platform high = sample(2);
  high.pci->ecam_base = 0x10000000000;
  high.pci->last_bus = 255;
  high.pci->mmio32 = {};
  high.events->status = {PlatformRegister::Space::memory, 0xfed00000};
  high.generation_id_address = 0x123456789000;
  check_with_iasl(2, high);
}

}  // namespace
}  // namespace vmm::acpi
