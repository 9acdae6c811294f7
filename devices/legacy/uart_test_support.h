// What the tests of the two serial ports share: one with a line, and a guest that misuses it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "src/hypervisor/bus/interrupt.h"

namespace vmm::test {

struct CountingLine : InterruptLine {
  void set_level(bool level) override {
    if (level && !high) ++edges;
    high = level;
  }
  bool high = false;
  int edges = 0;
};

template <typename Uart>
class SerialPortTest : public ::testing::Test {
 protected:
  std::size_t receive(std::string_view text) {
    return uart_.receive(std::as_bytes(std::span(text)));
  }

  struct Guest {
    std::function<void(std::mt19937&)> read_any, write_any;  // any register
    std::function<void()> start;                             // as a driver does
    std::function<std::optional<char>()> take;               // what was typed
  };
  // Whatever a guest did before: from then on it gets what is typed.
  void expect_input_is_never_lost(const Guest& guest) {
    for (unsigned seed = 0; seed < 300; ++seed) {
      std::mt19937 random(seed);
      std::string waiting;
      bool refused = false;
      int served = rooms_;
      const auto offer = [&] {
        waiting.erase(0, receive(waiting));
        refused = !waiting.empty();
      };
      for (int step = 0; step < 200; ++step) {
        switch (random() % 4) {
          case 0:
            waiting += std::string(random() % 400, 'x');
            if (!refused && !waiting.empty()) offer();
            break;
          case 1:  // as the console does: some time after it was asked to
            if (std::exchange(served, rooms_) != rooms_) offer();
            break;
          case 2:
            guest.read_any(random);
            break;
          case 3:
            guest.write_any(random);
            break;
        }
      }
      waiting += "typed";
      if (!refused) offer();
      guest.start();
      std::string got;
      for (;;) {
        if (std::exchange(served, rooms_) != rooms_) offer();
        const auto taken = guest.take();
        if (!taken) break;
        got += *taken;
      }
      ASSERT_TRUE(got.ends_with("typed"))
          << seed << ": " << waiting.size() << " bytes wait for ever";
    }
  }

  CountingLine line_;
  std::string sent_;
  int outputs_ = 0;
  int rooms_ = 0;
  Uart uart_{line_,
             [this](std::span<const std::byte> bytes) {
               ++outputs_;
               for (const auto byte : bytes) sent_ += static_cast<char>(byte);
             },
             [this] { ++rooms_; }};
};

}  // namespace vmm::test
