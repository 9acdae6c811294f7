#include "src/engine/cli/layer_lines.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace vmm::engine::cli {
namespace {

// What stands on a terminal after the few sequences that LayerLines knows.
class Terminal {
 public:
  void write(std::string_view text) {
    while (!text.empty()) {
      const auto size = text.starts_with("\x1b[") ? sequence(text) : character(text.front());
      text.remove_prefix(size);
    }
  }
  const std::vector<std::string>& lines() const { return lines_; }
  std::size_t row() const { return row_; }
  std::size_t column() const { return column_; }

 private:
  std::size_t sequence(std::string_view text) {
    const auto end = text.find_first_of("ABK");
    const auto n = std::strtoul(std::string(text.substr(2)).c_str(), nullptr, 10);
    switch (text.at(end)) {
      case 'A':
        EXPECT_LE(n, row_);
        row_ -= n;
        break;
      case 'B':
        row_ += n;
        break;
      default:
        EXPECT_EQ(n, 2u) << "the whole line";
        lines_.at(row_).clear();
    }
    return end + 1;
  }
  std::size_t character(char c) {
    if (c == '\r') {
      column_ = 0;
    } else if (c == '\n') {
      column_ = 0;
      if (++row_ == lines_.size()) lines_.emplace_back();
    } else {
      auto& line = lines_.at(row_);
      line.resize(std::max(line.size(), column_ + 1), ' ');
      line.at(column_++) = c;
    }
    return 1;
  }

  std::vector<std::string> lines_ = {""};
  std::size_t row_ = 0, column_ = 0;
};

class LayerLinesTest : public testing::Test {
 protected:
  LayerLines on_terminal(Screen screen, std::chrono::milliseconds redraw = {}) {
    return {[this](std::string_view text) { terminal_.write(text); }, [screen] { return screen; },
            redraw};
  }
  // The lines, without the empty one below them, in which the cursor is to stand.
  std::vector<std::string> shown() {
    EXPECT_EQ(terminal_.row() + 1, terminal_.lines().size());
    EXPECT_EQ(terminal_.column(), 0u);
    EXPECT_EQ(terminal_.lines().back(), "");
    auto lines = terminal_.lines();
    lines.pop_back();
    return lines;
  }
  using Lines = std::vector<std::string>;

  const Digest one_ = Digest::of("1"), two_ = Digest::of("2");
  const std::string first_ = one_.short_hex(), second_ = two_.short_hex();
  Terminal terminal_;
};

TEST_F(LayerLinesTest, ALayerKeepsItsLine) {
  auto lines = on_terminal({.columns = 120, .rows = 24});
  lines.tell(one_, "Pulling fs layer");
  lines.tell(two_, "Already exists");
  EXPECT_EQ(shown(), (Lines{first_ + ": Pulling fs layer", second_ + ": Already exists"}));
  lines.advance(one_, "Downloading", 1'200'000, 2'400'000);
  EXPECT_EQ(shown()[0], first_ + ": Downloading [" + std::string(25, '=') + ">" +
                            std::string(25, ' ') + "]    1.2MB/2.4MB");
  EXPECT_EQ(shown()[1], second_ + ": Already exists");
  lines.tell(one_, "Pull complete");
  EXPECT_EQ(shown(), (Lines{first_ + ": Pull complete", second_ + ": Already exists"}));
}

TEST_F(LayerLinesTest, ElsewhereEachEventIsALine) {
  std::string text;
  LayerLines lines([&text](std::string_view more) { text += more; }, [] { return std::nullopt; });
  lines.tell(one_, "Pulling fs layer");
  lines.advance(one_, "Downloading", 1, 2);
  lines.tell(one_, "Download complete");
  EXPECT_EQ(text, first_ + ": Pulling fs layer\n" + first_ + ": Download complete\n");
}

TEST_F(LayerLinesTest, NoLineIsWiderThanTheTerminal) {
  for (std::size_t columns = 1; columns < 130; ++columns) {
    terminal_ = {};
    auto lines = on_terminal({.columns = columns, .rows = 24});
    lines.advance(one_, "Downloading", 999'999, 123'456'789'000);
    EXPECT_LT(shown()[0].size(), columns);
  }
}

TEST_F(LayerLinesTest, WhatHasLeftTheScreenIsLeftAlone) {
  auto lines = on_terminal({.columns = 80, .rows = 3});
  for (const auto* layer : {"1", "2", "3", "4"}) lines.tell(Digest::of(layer), "Waiting");
  lines.tell(one_, "Pull complete");
  lines.tell(Digest::of("3"), "Pull complete");
  EXPECT_EQ(shown()[0], first_ + ": Waiting");
  EXPECT_EQ(shown()[2], Digest::of("3").short_hex() + ": Pull complete");
}

TEST_F(LayerLinesTest, IsNotDrawnForEachByte) {
  std::size_t pictures = 0;
  LayerLines lines([&pictures](std::string_view text) { pictures += text != "\n"; },
                   [] { return Screen{}; }, std::chrono::hours(1));
  for (std::uint64_t done = 0; done <= 1000; ++done) {
    lines.advance(one_, "Downloading", done, 1000);
  }
  EXPECT_EQ(pictures, 2u) << "the first and the last";
  lines.advance(one_, "Extracting", 0, 1000);
  EXPECT_EQ(pictures, 3u);
}

TEST(LayerProgress, IsDockersBar) {
  EXPECT_EQ(layer_progress(0, 8'100'000, 100), "[>" + std::string(50, ' ') + "]       0B/8.1MB");
  EXPECT_EQ(layer_progress(8'100'000, 8'100'000, 100),
            "[" + std::string(50, '=') + ">]    8.1MB/8.1MB");
  EXPECT_EQ(layer_progress(9, 8, 100), layer_progress(8, 8, 100)) << "a layer that is too long";
  EXPECT_EQ(layer_progress(999'960, 8'100'000, 0), "  1000kB/8.1MB");
  EXPECT_EQ(layer_progress(1, 2, 24), "      1B/2B") << "no room";
  EXPECT_EQ(layer_progress(1, 2, 25), "[=====>     ]       1B/2B");
  EXPECT_EQ(layer_progress(0, 0, 100), "      0B/0B");
}

}  // namespace
}  // namespace vmm::engine::cli
