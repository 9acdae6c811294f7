#include <boost/program_options.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "src/cli/help/completion.h"
#include "src/cli/help/help_text.h"
#include "src/cli/help/manual.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Page example() {
  Page pack;
  pack.name = "pack";
  pack.forms = {"DIR FILE [OPTION]..."};
  pack.summary = "pack it into one file";
  pack.groups = {{"Options", {{"--since", "", "ARCHIVE", false, "store what ARCHIVE lacks"}}}};
  Page group;
  group.name = "saved";
  group.summary = "handle saved machines";
  group.description = {"What there is to do."};
  group.commands = {pack};
  Page program;
  program.name = "tool";
  program.forms = {"--kernel PATH [OPTION]..."};
  program.summary = "an example";
  program.groups = {
      {"The machine",
       {{"--kernel", "", "PATH", false, "the kernel"},
        {"--log-level", "", "debug|info|off", true,
         "how much is logged; a text that is much longer than a line of forty columns is"}}}};
  program.sections = {{"Only in the manual", {"a.b. 'c' \\d"}, {}, Section::In::manual},
                      {"Exit codes", {}, {{"0", "done"}}}};
  program.commands = {group};
  return program;
}

std::vector<std::string> path(std::initializer_list<std::string> names) { return names; }

TEST(HelpPage, IsMadeOfTheOptionsThatAreParsed) {
  std::string value;
  std::vector<std::string> values;
  po::options_description options;
  options.add_options()("help,h", po::bool_switch(), "explain")(
      ",n", po::value(&value)->value_name("N"), "how many")(
      "base", po::value(&values)->composing()->value_name("ARCHIVE"), "once for each");
  const auto group = group_of("Options", options);
  ASSERT_EQ(group.options.size(), 3u);
  EXPECT_EQ(group.options[0].name, "--help");
  EXPECT_EQ(group.options[0].short_name, "-h");
  EXPECT_EQ(group.options[0].value, "");
  EXPECT_EQ(group.options[1].name, "-n");
  EXPECT_EQ(group.options[1].short_name, "");
  EXPECT_EQ(group.options[1].value, "N");
  EXPECT_FALSE(group.options[1].repeatable);
  EXPECT_TRUE(group.options[2].repeatable);
}

TEST(HelpPage, IsFoundByTheNamesOfCommands) {
  const auto program = example();
  EXPECT_EQ(find_page(program, {})->name, "tool");
  EXPECT_EQ(find_page(program, path({"saved", "pack"}))->name, "pack");
  EXPECT_EQ(find_page(program, path({"pack"})), nullptr);
  EXPECT_EQ(find_page(program, path({"saved", "pack", "more"})), nullptr);
}

TEST(HelpPage, ChoicesAreWhatCanBeTyped) {
  EXPECT_THAT(choices_of("raw|qcow2").words, ElementsAre("raw", "qcow2"));
  EXPECT_FALSE(choices_of("raw|qcow2").files);
  EXPECT_TRUE(choices_of("PATH[,KEY...]").files);
  EXPECT_TRUE(choices_of("[DIR]").files);
  EXPECT_TRUE(choices_of("DIR|ARCHIVE").files);
  EXPECT_TRUE(choices_of("SIZE PATH").files);
  EXPECT_FALSE(choices_of("SIZE").files);
  EXPECT_THAT(choices_of("pty|file:PATH[,max=SIZE]|socket:PATH").words,
              ElementsAre("pty", "file:", "socket:"));
  EXPECT_TRUE(choices_of("[COMMAND [SUBCOMMAND]]").commands);
  EXPECT_THAT(choices_of("--kernel PATH [OPTION]...").words, IsEmpty());
  EXPECT_THAT(choices_of("").words, IsEmpty());
}

TEST(HelpText, WrapsAtTheWidth) {
  for (const std::size_t width : {40u, 60u, 80u, 100u}) {
    std::istringstream text(help_text(example(), {}, width));
    for (std::string line; std::getline(text, line);) EXPECT_LE(line.size(), width) << line;
  }
  EXPECT_THAT(help_text(example(), {}, 40), HasSubstr("  --log-level debug|info|off\n"
                                                      "             how much is logged; a text\n"
                                                      "             that is much longer than a\n"));
  EXPECT_THAT(help_text(example(), {}, 80), HasSubstr("  --kernel PATH           the kernel\n"));
}

TEST(HelpText, ShowsTheCommandsAndWhatBelongsToHelp) {
  const auto text = help_text(example(), {}, 80);
  EXPECT_THAT(text, HasSubstr("Usage: tool --kernel PATH [OPTION]...\n"));
  EXPECT_THAT(text, HasSubstr("  saved                   handle saved machines\n"));
  EXPECT_THAT(text, HasSubstr("Exit codes:\n  0                       done\n"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("Only in the manual")));
  const auto group = help_text(example(), path({"saved"}), 80);
  EXPECT_THAT(group, HasSubstr("Usage: tool saved COMMAND\n"));
  EXPECT_THAT(group, HasSubstr("Options of pack:\n  --since ARCHIVE"));
  EXPECT_THAT(help_text(example(), path({"saved", "pack"}), 80),
              HasSubstr("Usage: tool saved pack DIR FILE [OPTION]...\n"));
}

TEST(HelpManual, NamesEverythingAndEscapesWhatRoffReads) {
  const auto page = manual(example(), "November 30, 2026");
  EXPECT_THAT(page, HasSubstr(".Dd November 30, 2026\n"));
  EXPECT_THAT(page, HasSubstr(".It Fl \\-kernel Ar \\&PATH\n"));
  EXPECT_THAT(page, HasSubstr(".Ss \\&tool \\&saved\n"));
  EXPECT_THAT(page, HasSubstr(".It Cm \\&saved \\&pack Ar \\&DIR \\&FILE \\&[OPTION]...\n"));
  EXPECT_THAT(page, HasSubstr(".Sh ONLY IN THE MANUAL\na.b.\n\\(aqc\\(aq \\ed\n"));
}

TEST(HelpManual, IsOfTheDateOfTheSources) {
  ::setenv("SOURCE_DATE_EPOCH", "86400", 1);
  EXPECT_EQ(manual_date(), "January 2, 1970");
  ::setenv("SOURCE_DATE_EPOCH", "1796083199", 1);
  EXPECT_EQ(manual_date(), "November 30, 2026");
  ::unsetenv("SOURCE_DATE_EPOCH");
}

// That shells complete by them is tested with the shells (tests/cli/help.py).
TEST(HelpCompletion, HasAllWordsOfTheCommands) {
  for (const auto& script :
       {bash_completion(example()), zsh_completion(example()), fish_completion(example())}) {
    for (const auto* word : {"kernel", "log-level", "debug info off", "saved", "pack", "since"}) {
      EXPECT_THAT(script, HasSubstr(word));
    }
  }
}

}  // namespace
}  // namespace vmm::cli
