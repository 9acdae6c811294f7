#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "src/engine/runtime/log_reader.h"
#include "src/engine/runtime/log_writer.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

using wire::Stream;

std::vector<LogLine> read_all(const std::string& directory, const LogSelection& selection = {}) {
  auto reader = LogReader::open(directory, selection);
  EXPECT_TRUE(reader);
  std::vector<LogLine> lines;
  while (auto line = reader->next().value_or(std::nullopt)) lines.push_back(*line);
  return lines;
}

std::string text_of(const std::vector<LogLine>& lines) {
  std::string text;
  for (const auto& line : lines) text += line.text;
  return text;
}

TEST(LogTest, LinesOfBothStreamsComeBack) {
  TestDirectory folder;
  auto writer = LogWriter::open(folder / "log", 1u << 20, 2);
  ASSERT_TRUE(writer);
  writer->write(Stream::output, "one\ntw");
  writer->write(Stream::error, "bad \"\n");
  writer->write(Stream::output, "o\nno end");
  writer->finish();
  const auto lines = read_all(folder.path());
  EXPECT_EQ(text_of(lines), "one\nbad \"\ntwo\nno end");
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[1].stream, Stream::error);
  EXPECT_EQ(lines[0].time_text, format_nanoseconds(lines[0].time));
  EXPECT_EQ(text_of(read_all(folder.path(), {.since = {}, .until = {}, .tail = 2})), "two\nno end");
  EXPECT_EQ(text_of(read_all(folder.path(), {.since = {}, .until = {}, .tail = 0})), "");
  EXPECT_EQ(text_of(read_all(folder.path(), {.since = lines[3].time + 1, .until = {}, .tail = {}})),
            "");
  EXPECT_EQ(read_all(folder.path(), {.since = {}, .until = lines[0].time, .tail = {}}).size(),
            2u);  // "two" began with it
}

TEST(LogTest, AFloodStaysWithinItsFiles) {
  TestDirectory folder;
  constexpr std::uint64_t kSize = 100'000;
  auto writer = LogWriter::open(folder / "log", kSize, 3);
  ASSERT_TRUE(writer);
  const std::string bytes(65536, 'x');
  for (int i = 0; i < 64; ++i) writer->write(Stream::output, bytes);
  writer->write(Stream::output, "\nlast\n");
  std::uint64_t sum = 0, files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    sum += entry.file_size();
    ++files;
  }
  EXPECT_EQ(files, 3u);
  EXPECT_LE(sum, 3 * kSize);
  EXPECT_EQ(read_all(folder.path()).back().text, "last\n");
  EXPECT_EQ(text_of(read_all(folder.path(), {.since = {}, .until = {}, .tail = 1})), "last\n");
}

TEST(LogTest, OneFileBeginsAnew) {
  TestDirectory folder;
  auto writer = LogWriter::open(folder / "log", 1000, 1);
  ASSERT_TRUE(writer);
  for (int i = 0; i < 100; ++i) writer->write(Stream::output, fmt::format("line {}\n", i));
  EXPECT_LE(std::filesystem::file_size(folder / "log"), 1000u);
  EXPECT_EQ(read_all(folder.path()).back().text, "line 99\n");
}

TEST(LogTest, WhatAKilledSupervisorBeganIsPassedOver) {
  TestDirectory folder;
  std::ofstream(folder / "log") << R"({"log":"half)";
  auto writer = LogWriter::open(folder / "log", 1u << 20, 2);
  ASSERT_TRUE(writer);
  writer->write(Stream::output, "whole\n");
  EXPECT_EQ(text_of(read_all(folder.path())), "whole\n");
}

TEST(LogTest, ACharacterIsNotCut) {
  TestDirectory folder;
  auto writer = LogWriter::open(folder / "log", 1u << 20, 2);
  ASSERT_TRUE(writer);
  const auto text = std::string(16383, 'x') + "ä\n";  // its two bytes around the longest line
  writer->write(Stream::output, text);
  EXPECT_EQ(text_of(read_all(folder.path())), text);
}

TEST(LogTest, LinesThatComeLaterAreSeenAcrossARotation) {
  TestDirectory folder;
  auto writer = LogWriter::open(folder / "log", 300, 2);
  ASSERT_TRUE(writer);
  writer->write(Stream::output, "a\n");
  auto reader = LogReader::open(folder.path(), {});
  ASSERT_TRUE(reader);
  std::string seen;
  for (int i = 0; i < 20; ++i) {
    while (auto line = reader->next().value_or(std::nullopt)) seen += line->text;
    writer->write(Stream::output, fmt::format("{}\n", i));
  }
  while (auto line = reader->next().value_or(std::nullopt)) seen += line->text;
  std::string wanted = "a\n";
  for (int i = 0; i < 20; ++i) wanted += fmt::format("{}\n", i);
  EXPECT_EQ(seen, wanted);
}

}  // namespace
}  // namespace vmm::engine
