#include <gtest/gtest.h>

#include "devices/legacy/pl011.h"
#include "devices/legacy/pl011_registers.h"
#include "devices/legacy/pl031.h"
#include "devices/legacy/uart_test_support.h"

namespace vmm {
namespace {

class Pl011Test : public test::SerialPortTest<Pl011> {
 protected:
  std::uint32_t read(std::uint64_t at) { return static_cast<std::uint32_t>(uart_.read(at, 4)); }
  void write(std::uint64_t at, std::uint32_t value) { uart_.write(at, 4, value); }
  void print(std::string_view text) {  // as drivers do
    for (const char c : text) {
      EXPECT_TRUE(read(pl011::kFlags) & pl011::kFlagTransmitEmpty);
      write(pl011::kData, static_cast<std::uint8_t>(c));
    }
  }
};

// What the part says it is must be what drivers look for.
TEST_F(Pl011Test, IsRecognised) {
  const unsigned expected[] = {0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(read(0xfe0 + 4 * i), expected[i]) << i;
}

TEST_F(Pl011Test, SendsALineAtATime) {
  print("hello\n");
  EXPECT_EQ(sent_, "hello\n");
  EXPECT_EQ(outputs_, 1);
  print("login: ");
  EXPECT_EQ(sent_, "hello\n");
  (void)read(pl011::kFlags);  // after a byte: as before the next one
  (void)read(pl011::kFlags);  // again: it waits
  EXPECT_EQ(sent_, "hello\nlogin: ");
}

TEST_F(Pl011Test, SendsWhatIsLeftWhenTheGuestTurnsAway) {
  print("a");
  write(pl011::kInterruptMask, 0);
  EXPECT_EQ(sent_, "a");
  print(std::string(100, 'b'));
  EXPECT_EQ(sent_.size(), 65u);
  uart_.flush();
  EXPECT_EQ(sent_.size(), 101u);
}

TEST_F(Pl011Test, ReceivesWithAnInterrupt) {
  write(pl011::kLineControl, pl011::kLineFifos);
  EXPECT_EQ(receive("ab"), 2u);
  EXPECT_FALSE(line_.high);
  write(pl011::kInterruptMask, pl011::kReceived | pl011::kReceiveTimeout);
  EXPECT_TRUE(line_.high);
  write(pl011::kInterruptClear, pl011::kAllInterrupts);
  EXPECT_TRUE(line_.high) << "there still is something to read";
  EXPECT_EQ(read(pl011::kInterrupts), unsigned{pl011::kReceived | pl011::kReceiveTimeout});
  EXPECT_FALSE(read(pl011::kFlags) & pl011::kFlagReceiveEmpty);
  EXPECT_EQ(read(pl011::kData), 'a');
  EXPECT_EQ(read(pl011::kData), 'b');
  EXPECT_FALSE(line_.high);
  EXPECT_TRUE(read(pl011::kFlags) & pl011::kFlagReceiveEmpty);
  EXPECT_EQ(read(pl011::kData), 0u);
}

TEST_F(Pl011Test, RefusesWhenFullAndAsksAgain) {
  write(pl011::kLineControl, pl011::kLineFifos);
  EXPECT_EQ(receive(std::string(300, 'z')), 256u);
  EXPECT_EQ(receive("y"), 0u);
  EXPECT_TRUE(read(pl011::kFlags) & pl011::kFlagReceiveFull);
  for (int i = 0; i < 256; ++i) (void)read(pl011::kData);
  EXPECT_EQ(rooms_, 1);
}

TEST_F(Pl011Test, TakesOneByteWhileTheFifosAreOff) {
  EXPECT_EQ(receive("ab"), 1u);
  EXPECT_TRUE(read(pl011::kFlags) & pl011::kFlagReceiveFull);
  EXPECT_EQ(read(pl011::kData), 'a');
  EXPECT_EQ(rooms_, 1);
  write(pl011::kLineControl, pl011::kLineFifos);
  EXPECT_EQ(receive("bc"), 2u);
  write(pl011::kLineControl, 0);
  EXPECT_EQ(receive("d"), 0u);
  EXPECT_EQ(read(pl011::kData), 'b');
  EXPECT_EQ(rooms_, 1) << "there still is something to read";
  EXPECT_EQ(read(pl011::kData), 'c');
  EXPECT_EQ(rooms_, 2);
}

// check: tests-that-check-nothing allowed, what it calls does
TEST_F(Pl011Test, InputIsNeverLostForEver) {
  expect_input_is_never_lost(
      {.read_any = [this](auto& random) { (void)read(random() % 20 * 4); },
       .write_any =
           [this](auto& random) {
             const std::uint64_t at = random() % 20 * 4;
             write(at, static_cast<std::uint32_t>(random()));
           },
       .start = [this] { write(pl011::kControl, pl011::kControlEnable | pl011::kControlReceive); },
       .take = [this]() -> std::optional<char> {
         if ((read(pl011::kFlags) & pl011::kFlagReceiveEmpty) != 0) return std::nullopt;
         return static_cast<char>(read(pl011::kData));
       }});
}

TEST_F(Pl011Test, TransmitterInterruptRaisesAndClears) {
  write(pl011::kInterruptMask, pl011::kTransmitted);
  EXPECT_FALSE(line_.high) << "only passing the level raises it";
  write(pl011::kData, 'x');
  EXPECT_TRUE(line_.high);
  EXPECT_EQ(read(pl011::kRawInterrupts), unsigned{pl011::kTransmitted});
  write(pl011::kInterruptClear, pl011::kTransmitted);
  EXPECT_FALSE(line_.high);
}

TEST_F(Pl011Test, LoopsBack) {
  write(pl011::kControl, pl011::kControlEnable | pl011::kControlLoopback);
  write(pl011::kData, 'q');
  uart_.flush();
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(read(pl011::kData), 'q');
}

TEST_F(Pl011Test, LoopbackHasABound) {
  write(pl011::kControl, pl011::kControlEnable | pl011::kControlLoopback);
  for (int i = 0; i < 256; ++i) write(pl011::kData, 'q');
  EXPECT_EQ(read(pl011::kRawInterrupts) & pl011::kOverrun, 0u);
  write(pl011::kData, 'r');
  EXPECT_NE(read(pl011::kRawInterrupts) & pl011::kOverrun, 0u);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(read(pl011::kData), 'q');
  EXPECT_TRUE(read(pl011::kFlags) & pl011::kFlagReceiveEmpty) << "the last one is lost";
}

TEST_F(Pl011Test, GoesOnFromItsState) {
  write(pl011::kIntegerDivisor, 13);
  write(pl011::kInterruptMask, pl011::kReceived);
  EXPECT_EQ(receive("k"), 1u);
  const auto state = uart_.save();
  test::CountingLine line;
  Pl011 other(line, [](std::span<const std::byte>) {}, [] {});
  ASSERT_TRUE(other.restore(state));
  EXPECT_FALSE(line.high) << "no edge";
  EXPECT_EQ(other.read(pl011::kIntegerDivisor, 4), 13u);
  EXPECT_EQ(other.read(pl011::kData, 4), std::uint64_t{'k'});
  auto large = state;
  large.received.resize(257);
  EXPECT_FALSE(other.restore(large));
}

TEST(Pl031, TellsAndTakesTheTime) {
  std::time_t now = 1'700'000'000;
  Pl031 rtc([&now] { return now; });
  const unsigned expected[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(rtc.read(0xfe0 + 4 * i, 4), expected[i]) << i;
  EXPECT_EQ(rtc.read(0, 4), 1'700'000'000u);
  EXPECT_EQ(rtc.read(0xc, 4), 1u) << "it runs";
  rtc.write(8, 4, 1'800'000'000);
  now += 5;
  EXPECT_EQ(rtc.read(0, 4), 1'800'000'005u) << "goes on from what was set";
  rtc.write(4, 4, 7);
  rtc.write(0x10, 4, 3);
  const auto state = rtc.save();
  Pl031 other([&now] { return now; });
  other.restore(state);
  EXPECT_EQ(other.read(0, 4), 1'800'000'005u);
  EXPECT_EQ(other.read(4, 4), 7u);
  EXPECT_EQ(other.read(0x10, 4), 1u);
  EXPECT_EQ(other.read(0x18, 4), 0u) << "no alarm";
}

}  // namespace
}  // namespace vmm
