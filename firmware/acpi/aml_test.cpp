#include "firmware/acpi/aml.h"

#include <gtest/gtest.h>

#include <string>

namespace vmm::acpi::aml {
namespace {

std::string hex(const Aml& code) {
  std::string text;
  for (std::byte b : code) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    text += kDigits[std::to_integer<unsigned>(b) >> 4];
    text += kDigits[std::to_integer<unsigned>(b) & 15];
  }
  return text;
}

// The expected bytes are those that iasl 20200925 compiles the ASL in the comment to.
TEST(Aml, Integers) {
  EXPECT_EQ(hex(integer(0)), "00");
  EXPECT_EQ(hex(integer(1)), "01");
  EXPECT_EQ(hex(integer(2)), "0a02");
  EXPECT_EQ(hex(integer(0xff)), "0aff");
  EXPECT_EQ(hex(integer(0x100)), "0b0001");
  EXPECT_EQ(hex(integer(0x10000)), "0c00000100");
  EXPECT_EQ(hex(integer(0x100000000)), "0e0000000001000000");
}

TEST(Aml, Paths) {
  EXPECT_EQ(hex(path("\\")), "5c00");
  EXPECT_EQ(hex(path("_SB_")), "5f53425f");
  EXPECT_EQ(hex(path("\\_SB_.PCI0")), "5c2e5f53425f50434930");
  EXPECT_EQ(hex(path("_SB_.PCI0.S000")), "2f035f53425f5043493053303030");
  EXPECT_EQ(hex(path("GED")), "4745445f");  // padded
}

TEST(Aml, Identifiers) {
  EXPECT_EQ(hex(eisa_id("PNP0501")), "0c41d00501");  // EisaId ("PNP0501")
  EXPECT_EQ(hex(eisa_id("PNP0A08")), "0c41d00a08");
  EXPECT_TRUE(is_eisa_id("PNP0C0C"));
  EXPECT_FALSE(is_eisa_id("PNP0C0"));
  EXPECT_FALSE(is_eisa_id("PNP0c0C"));
  EXPECT_FALSE(is_eisa_id("ACPI0013"));
  EXPECT_TRUE(is_name_segment("COM1"));
  EXPECT_FALSE(is_name_segment("1COM"));
  EXPECT_FALSE(is_name_segment("COM"));
  EXPECT_FALSE(is_name_segment("com1"));
}

TEST(Aml, StringsBuffersPackages) {
  EXPECT_EQ(hex(string("AB")), "0d414200");
  const Aml bytes = {std::byte{1}, std::byte{2}};
  EXPECT_EQ(hex(buffer(bytes)), "11050a020102");
  EXPECT_EQ(hex(package({integer(5), integer(0)})), "1205020a0500");
  EXPECT_EQ(hex(name("_S5_", package({integer(5)}))), "085f53355f1204010a05");
}

// The length of a body counts its own bytes; each border between the encodings is met.
TEST(Aml, PackageLengths) {
  struct Case {
    std::size_t body;
    std::string_view length;
  };
  for (const Case& c : {Case{62, "3f"}, Case{63, "4104"}, Case{4093, "4fff"}, Case{4094, "810001"},
                        Case{(1 << 20) - 4, "8fffff"}, Case{(1 << 20) - 3, "c1000001"}}) {
    const Aml body(c.body - 4);
    const Aml code = scope("ABCD", {body});
    EXPECT_EQ(hex(Aml(code.begin() + 1, code.end())).substr(0, c.length.size()), c.length)
        << c.body;
    EXPECT_EQ(code.size(), 1 + c.length.size() / 2 + c.body);
  }
}

TEST(Aml, Methods) {
  // Method (_EVT, 1, Serialized) { Local0 = ESTS  If ((Local0 & One)) { Notify (\_SB.PWRB, 0x80) }
  // }
  EXPECT_EQ(hex(method("_EVT", 1, Serialized::yes,
                       {store(path("ESTS"), local(0)),
                        if_then(bit_and(local(0), integer(1)), {notify("\\_SB_.PWRB", 0x80)})})),
            "141f5f45565409704553545360a0127b600100865c2e5f53425f505752420a80");
}

TEST(Aml, Regions) {
  // OperationRegion (EREG, SystemIO, 0x0600, One)  Field (EREG, ByteAcc, NoLock, WriteAsZeros)
  EXPECT_EQ(hex(operation_region("EREG", Space::io, 0x600, 1)), "5b8045524547010b000601");
  const std::array<FieldUnit, 2> units = {{{"ESTS", 8}, {"WIDE", 64}}};
  EXPECT_EQ(hex(field("EREG", Access::byte, units)), "5b811145524547414553545308574944454004");
}

TEST(Aml, Resources) {
  EXPECT_EQ(hex(io_ports(0x3f8, 8).bytes), "4701f803f8030108");
  EXPECT_EQ(hex(memory32_fixed(0xe0000000, 0x1000).bytes), "86090001000000e000100000");
  EXPECT_EQ(hex(interrupt(4, Trigger::edge, Polarity::active_high).bytes), "890600030104000000");
  EXPECT_EQ(hex(interrupt(4, Trigger::level, Polarity::active_low).bytes), "890600050104000000");
  EXPECT_EQ(hex(bus_numbers(0, 255).bytes), "880d00020c0000000000ff0000000001");
  EXPECT_EQ(hex(memory32(Usage::producer, 0xc0000000, 0xcfffffff).bytes),
            "871700000c0100000000000000c0ffffffcf0000000000000010");
  EXPECT_EQ(hex(memory64(Usage::consumer, 1ull << 32, (1ull << 33) - 1).bytes),
            "8a2b00000d01"
            "0000000000000000"
            "0000000001000000"
            "ffffffff01000000"
            "0000000000000000"
            "0000000001000000");
  EXPECT_EQ(hex(resource_template({io_ports(0x70, 2)})), "110d0a0a47017000700001027900");
}

}  // namespace
}  // namespace vmm::acpi::aml
