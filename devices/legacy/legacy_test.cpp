#include <gtest/gtest.h>

#include "devices/legacy/cmos_rtc.h"
#include "devices/legacy/power_ports.h"
#include "devices/legacy/uart16550.h"
#include "devices/legacy/uart_registers.h"
#include "devices/legacy/uart_test_support.h"

namespace vmm {
namespace {

class UartTest : public test::SerialPortTest<Uart16550> {
 protected:
  std::uint8_t read(unsigned at) { return static_cast<std::uint8_t>(uart_.read(at, 1)); }
  void write(unsigned at, std::uint8_t value) { uart_.write(at, 1, value); }
};

TEST_F(UartTest, SendsWhatIsWritten) {
  for (const char c : {'h', 'i'}) {
    EXPECT_TRUE(read(uart::kLineStatus) & uart::kLsrTransmitEmpty);
    write(uart::kData, static_cast<std::uint8_t>(c));
  }
  uart_.flush();
  EXPECT_EQ(sent_, "hi");
  EXPECT_FALSE(line_.high) << "interrupts are off";
}

TEST_F(UartTest, SendsAFifoAtATimeOrWhenTheGuestLooks) {
  for (int i = 0; i < 17; ++i) write(uart::kData, 'a');
  EXPECT_EQ(outputs_, 1);
  EXPECT_EQ(sent_.size(), 16u);
  (void)read(uart::kInterruptId);
  EXPECT_EQ(sent_.size(), 17u);
  (void)read(uart::kLineStatus);
  EXPECT_EQ(outputs_, 2) << "nothing waits: nothing is sent";
}

TEST_F(UartTest, TransmitterInterruptRaisesAndClears) {
  write(uart::kInterruptEnable, uart::kIerTransmitEmpty);
  EXPECT_TRUE(line_.high) << "empty when enabled";
  EXPECT_EQ(read(uart::kInterruptId), uart::kIirTransmitEmpty);
  EXPECT_FALSE(line_.high);
  EXPECT_EQ(read(uart::kInterruptId), uart::kIirNone);
  write(uart::kData, 'x');
  EXPECT_TRUE(line_.high);
  EXPECT_EQ(line_.edges, 2);
}

TEST_F(UartTest, ReceivesInOrderWithInterrupt) {
  write(uart::kInterruptId, uart::kFcrEnable);
  write(uart::kInterruptEnable, uart::kIerReceived);
  EXPECT_EQ(receive("ab"), 2u);
  EXPECT_TRUE(line_.high);
  EXPECT_EQ(read(uart::kInterruptId), uart::kIirReceived | uart::kIirFifos);
  EXPECT_TRUE(read(uart::kLineStatus) & uart::kLsrDataReady);
  EXPECT_EQ(read(uart::kData), 'a');
  EXPECT_TRUE(line_.high);
  EXPECT_EQ(read(uart::kData), 'b');
  EXPECT_FALSE(line_.high);
  EXPECT_EQ(read(uart::kData), 0);
}

TEST_F(UartTest, RefusesWhenFullAndAsksAgain) {
  write(uart::kInterruptId, uart::kFcrEnable);
  const std::string much(300, 'z');
  EXPECT_EQ(receive(much), 256u);
  EXPECT_EQ(receive("y"), 0u);
  for (int i = 0; i < 256; ++i) (void)read(uart::kData);
  EXPECT_EQ(rooms_, 1);
}

TEST_F(UartTest, TakesOneByteWhileTheFifosAreOff) {
  EXPECT_EQ(receive("ab"), 1u);
  EXPECT_EQ(receive("b"), 0u);
  EXPECT_EQ(read(uart::kData), 'a');
  EXPECT_EQ(rooms_, 1);
  write(uart::kInterruptId, uart::kFcrEnable);
  EXPECT_EQ(receive("bcd"), 3u);
  write(uart::kInterruptId, 0);
  EXPECT_EQ(receive("e"), 0u);
  EXPECT_EQ(read(uart::kData), 'b');
  EXPECT_EQ(read(uart::kData), 'c');
  EXPECT_EQ(rooms_, 1) << "there still is something to read";
  EXPECT_EQ(read(uart::kData), 'd');
  EXPECT_EQ(rooms_, 2);
}

TEST_F(UartTest, ClearingMakesRoom) {
  write(uart::kInterruptId, uart::kFcrEnable);
  write(uart::kInterruptEnable, uart::kIerReceived);
  EXPECT_EQ(receive(std::string(257, 'z')), 256u);
  write(uart::kInterruptId, uart::kFcrEnable | uart::kFcrClearReceive);
  EXPECT_FALSE(line_.high);
  EXPECT_EQ(rooms_, 1);
  EXPECT_EQ(receive("abc"), 1u) << "the guest may clear again";
  EXPECT_TRUE(line_.high);
  EXPECT_EQ(read(uart::kData), 'a');
  EXPECT_EQ(rooms_, 2);
  EXPECT_EQ(receive("bc"), 2u);
}

// The order in which Linux starts a port (8250_port.c, serial8250_do_startup) with input there.
TEST_F(UartTest, WhatWasTypedAheadSurvivesADriversStart) {
  std::string waiting = std::string(300, '.') + "typed\n";
  const std::size_t all = waiting.size();
  const auto offer = [&] { waiting.erase(0, receive(waiting)); };
  int served = 0;
  const auto serve = [&] {
    if (std::exchange(served, rooms_) != rooms_) offer();
  };
  offer();
  for (int clears = 0; clears < 3; ++clears) {
    for (const int value : {1, 7, 0}) {
      write(uart::kInterruptId, static_cast<std::uint8_t>(value));
      serve();
    }
  }
  (void)read(uart::kLineStatus);
  (void)read(uart::kData);
  serve();
  write(uart::kInterruptId, uart::kFcrEnable);
  std::string got;
  while (read(uart::kLineStatus) & uart::kLsrDataReady) {
    got += static_cast<char>(read(uart::kData));
    serve();
  }
  EXPECT_GE(got.size(), all - 8) << "a byte a clearing is lost";
  EXPECT_TRUE(got.ends_with("typed\n"));
}

// check: tests-that-check-nothing allowed, what it calls does
TEST_F(UartTest, InputIsNeverLostForEver) {
  expect_input_is_never_lost({.read_any = [this](auto& random) { (void)read(random() % 8); },
                              .write_any =
                                  [this](auto& random) {
                                    const unsigned at = random() % 8;
                                    write(at, static_cast<std::uint8_t>(random()));
                                  },
                              .start =
                                  [this] {
                                    write(uart::kLineControl, 3);
                                    write(uart::kModemControl, 0);
                                  },
                              .take = [this]() -> std::optional<char> {
                                if ((read(uart::kLineStatus) & uart::kLsrDataReady) == 0)
                                  return std::nullopt;
                                return static_cast<char>(read(uart::kData));
                              }});
}

TEST_F(UartTest, LoopbackAndDivisor) {
  write(uart::kModemControl, uart::kMcrLoopback | uart::kMcrRts | uart::kMcrOut2);
  EXPECT_EQ(read(uart::kModemStatus), uart::kMsrCts | uart::kMsrCarrier);
  write(uart::kData, 'q');
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(read(uart::kData), 'q');
  write(uart::kLineControl, uart::kLcrDivisorLatch);
  write(uart::kData, 1);
  write(uart::kInterruptEnable, 2);
  EXPECT_EQ(read(uart::kData), 1);
  EXPECT_EQ(read(uart::kInterruptEnable), 2);
  EXPECT_EQ(sent_, "");
  write(uart::kScratch, 0x5a);
  EXPECT_EQ(read(uart::kScratch), 0x5a);
}

TEST_F(UartTest, LoopbackHasABound) {
  write(uart::kModemControl, uart::kMcrLoopback);
  for (int i = 0; i < 256; ++i) write(uart::kData, 'q');
  EXPECT_EQ(read(uart::kLineStatus) & uart::kLsrOverrun, 0);
  write(uart::kData, 'r');
  EXPECT_NE(read(uart::kLineStatus) & uart::kLsrOverrun, 0);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(read(uart::kData), 'q');
  EXPECT_EQ(read(uart::kLineStatus) & uart::kLsrDataReady, 0) << "the last one is lost";
}

TEST(CmosRtc, TellsAndTakesTheTime) {
  std::time_t now = 1'700'000'000;  // 2023-11-14 22:13:20 UTC, a Tuesday
  CmosRtc rtc([&now] { return now; });
  const auto read = [&rtc](unsigned index) {
    rtc.write(0, 1, index);
    return static_cast<unsigned>(rtc.read(1, 1));
  };
  const auto write = [&rtc](unsigned index, unsigned value) {
    rtc.write(0, 1, index);
    rtc.write(1, 1, value);
  };
  EXPECT_EQ(read(9), 0x23u);
  EXPECT_EQ(read(0x32), 0x20u);
  EXPECT_EQ(read(8), 0x11u);
  EXPECT_EQ(read(7), 0x14u);
  EXPECT_EQ(read(6), 3u);
  EXPECT_EQ(read(4), 0x22u);
  EXPECT_EQ(read(2), 0x13u);
  EXPECT_EQ(read(0), 0x20u);
  EXPECT_EQ(read(10) & 0x80, 0u) << "no update in progress";
  EXPECT_EQ(read(13), 0x80u);
  write(11, 0x06);
  EXPECT_EQ(read(4), 22u) << "binary";
  write(11, 0x00);
  EXPECT_EQ(read(4), 0x90u) << "10 pm in 12 hours";
  write(11, 0x02);
  write(9, 0x24);
  write(4, 0x01);
  EXPECT_EQ(read(9), 0x24u);
  EXPECT_EQ(read(4), 0x01u);
  now += 1;
  EXPECT_EQ(read(0), 0x21u) << "goes on from what was set";
}

TEST(CmosRtc, StaysWithinACalendar) {
  CmosRtc clock([] { return std::time_t{1'700'000'000}; });
  auto state = clock.save();
  for (const auto offset : {INT64_MAX, INT64_MIN}) {
    state.offset = offset;
    ASSERT_TRUE(clock.restore(state));
    EXPECT_LT(std::abs(clock.save().offset), std::int64_t{1} << 40);
    clock.write(0, 1, 8);
    EXPECT_NE(clock.read(1, 1), 0u) << "a month";
  }
}

TEST(PowerPorts, OnlyTheRightValuesActAndEventsClear) {
  test::CountingLine line;
  int offs = 0, resets = 0;
  PowerPorts ports(line, [&] { ++offs; }, [&] { ++resets; });
  ports.write(0, 1, 0x20);     // another sleep type
  ports.write(0, 1, 5u << 2);  // without SLP_EN
  ports.write(2, 1, 2);
  EXPECT_EQ(offs + resets, 0);
  ports.write(0, 1, 0x20 | 5u << 2);
  ports.write(2, 1, 1);
  EXPECT_EQ(offs, 1);
  EXPECT_EQ(resets, 1);
  ports.announce(PowerPorts::kPowerButton);
  EXPECT_EQ(line.edges, 1);
  EXPECT_EQ(ports.read(4, 1), 1u);
  EXPECT_EQ(ports.read(4, 1), 0u);
}

TEST(SmallPorts, ResetAndPanic) {
  int calls = 0;
  KeyboardReset keyboard([&] { ++calls; });
  keyboard.write(0, 1, 0xd1);
  EXPECT_EQ(calls, 0);
  keyboard.write(0, 1, 0xfe);
  EXPECT_EQ(calls, 1);
  PanicPort panic([&] { ++calls; });
  EXPECT_EQ(panic.read(0, 1), 1u);
  panic.write(0, 1, 2);
  EXPECT_EQ(calls, 1);
  panic.write(0, 1, 1);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace vmm
