// What a command is and takes, as data. The tables that parse a command's words also make its page
// (the options_description of a command, the Subcommand table of a group), and help, manual page
// and completion are made of pages only. So none of them can differ from what the program accepts.
//
//   const Page vmm = program_page();                      // with the pages of all commands
//   fmt::print("{}", help_text(vmm, {"snapshot"}, 80));   // vmm snapshot --help
//   fmt::print("{}", manual(vmm, date));                  // vmm manual
//   fmt::print("{}", bash_completion(vmm));               // vmm completion bash
//
// Pages know no function that runs a command. A command that another executable runs (under
// libexec) keeps its tables in a library that both executables link: `vmm` makes the page of it,
// and its function there is one that executes the other program.
#pragma once

#include <boost/program_options/options_description.hpp>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::cli {

// Texts have no line ends: what prints them breaks the lines. `code` stands between backquotes.

struct Option {
  std::string name;         // "--kernel", or "-n" for one that has no long name
  std::string short_name;   // "-h", beside a long name; or ""
  std::string value;        // "PATH", "raw|qcow2"; "" for a switch
  bool repeatable = false;  // may be given more than once
  std::string text;
};

struct OptionGroup {
  std::string title;
  std::vector<Option> options;
};

struct Row {
  std::string term;  // "queues=N", an exit code
  std::string text;
};

// What there is to say behind the options.
struct Section {
  enum class In : std::uint8_t { help_and_manual, manual };
  std::string title;
  std::vector<std::string> paragraphs;  // before the rows
  std::vector<Row> rows;
  In in = In::help_and_manual;
};

struct Page {
  std::string name;     // one word: "snapshot", "export"; of the program: "vmm"
  std::string operand;  // what stands between the name and that of a subcommand: "SOCKET", or ""
  std::vector<std::string> forms;        // what follows the name, one usage each: "PATH [SIZE]"
  std::string summary;                   // no sentence: "list the snapshots in a directory"
  std::vector<std::string> description;  // paragraphs
  std::vector<OptionGroup> groups;
  std::vector<Section> sections;
  std::vector<Page> commands;
};

OptionGroup group_of(std::string title,
                     const boost::program_options::options_description& description);

// The page of `path`, {"snapshot", "export"}, below the program's; null: there is none.
const Page* find_page(const Page& program, std::span<const std::string> path);

// What may be typed for a value or a form such as "raw|qcow2", "PATH [SIZE]", "file:PATH|pty".
struct Choices {
  std::vector<std::string> words;  // "raw", or the beginning of a word: "file:"
  bool files = false;              // paths of files and directories
  bool commands = false;           // names of commands
};
Choices choices_of(std::string_view form);

// Of forms together.
Choices choices_of(const Page& page);

}  // namespace vmm::cli
