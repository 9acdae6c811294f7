#include "src/cli/help/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace vmm::cli {
namespace {

// A command as the scripts see it: by the names on the line, "snapshot export". The one without
// names is the program with its options.
struct Context {
  std::string name;
  const Page* page;
  std::size_t words;  // of the line that stand before the name of a subcommand, the program's too
};

std::vector<Context> contexts_of(const Page& program) {
  std::vector<Context> all = {{"", &program, 1}};
  for (const auto& command : program.commands) {
    all.push_back({command.name, &command, command.operand.empty() ? 2u : 3u});
    for (const auto& sub : command.commands) {
      all.push_back({command.name + " " + sub.name, &sub, 0});
    }
  }
  return all;
}

// --help is an option of all commands; the tables of those of two words do not name it.
std::vector<Option> options_of(const Page& page) {
  std::vector<Option> options;
  for (const auto& group : page.groups) {
    options.insert(options.end(), group.options.begin(), group.options.end());
  }
  if (std::ranges::find(options, "--help", &Option::name) == options.end()) {
    options.push_back({"--help", "-h", "", false, "print this and exit"});
  }
  return options;
}

std::vector<std::string> names_of(const std::vector<Page>& commands) {
  std::vector<std::string> names;
  for (const auto& command : commands) names.push_back(command.name);
  return names;
}

// What is completed besides options: names of commands, and what the page's forms allow.
Choices operands_of(const Page& program, const Page& page) {
  if (!page.commands.empty()) return {names_of(page.commands), false, false};
  auto choices = choices_of(page);
  if (choices.commands) {
    std::ranges::move(names_of(program.commands), std::back_inserter(choices.words));
  }
  return choices;
}

// In single quotes of any of the shells.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

// The explanation in a menu: its first part, without the marks of code.
std::string short_text(std::string_view text) {
  const auto end = std::min(text.find(';'), text.find(". "));
  std::string out(text.substr(0, end));
  std::erase(out, '`');
  return out;
}

}  // namespace

std::string bash_completion(const Page& program) {
  std::string groups, contexts, values;
  for (const auto& [name, page, words] : contexts_of(program)) {
    if (words > 1 && !page->commands.empty()) {
      groups += fmt::format("        {}) at={} ;;\n", name, words);
    }
    std::vector<std::string> names;
    for (const auto& option : options_of(*page)) {
      names.push_back(option.name);
      if (option.value.empty()) continue;
      const auto choices = choices_of(option.value);
      std::string pattern = quoted(name + ":" + option.name);
      if (!option.short_name.empty()) pattern += "|" + quoted(name + ":" + option.short_name);
      values += fmt::format("        {}) words='{}' files={} options='' ;;\n", pattern,
                            fmt::join(choices.words, " "), choices.files ? "1" : "''");
    }
    const auto operands = operands_of(program, *page);
    contexts += fmt::format("        {}) options='{}' words='{}' files={} ;;\n", quoted(name),
                            fmt::join(names, " "), fmt::join(operands.words, " "),
                            operands.files ? "1" : "''");
  }
  return fmt::format(
      R"(# Completion of {0} for bash. `{0} completion bash` prints it.
_{0}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local command='' at=0 options words files
    COMPREPLY=()
    # --option=value comes as three words.
    if [[ $cur == = ]]; then cur=''
    elif [[ $prev == = ]] && ((COMP_CWORD > 2)); then prev=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    if ((COMP_CWORD > 1)) && [[ ${{COMP_WORDS[1]}} != -* ]]; then command=${{COMP_WORDS[1]}}; fi
    case $command in
{1}    esac
    if ((at && COMP_CWORD > at)); then command+=" ${{COMP_WORDS[at]}}"; fi
    case $command in
{2}        *) return ;;
    esac
    # Before the name of a subcommand stands a socket; without a command, options follow.
    if ((at && COMP_CWORD < at)); then words='' files=1; fi
    if [[ ! $command ]] && ((COMP_CWORD > 1)); then words=''; fi
    case $command:$prev in
{3}    esac
    if [[ $cur == -* ]]; then words=$options files=''; fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$cur")
    elif [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *[:=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}}
complete -F _{0} {0}
)",
      program.name, groups, contexts, values);
}

namespace {

// A colon ends a field of a specification of zsh's, and brackets enclose an explanation.
std::string zsh_field(std::string_view text, std::string_view special) {
  std::string out;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_action(const Choices& choices) {
  if (choices.words.empty()) return choices.files ? "_files" : " ";
  std::string words;
  for (const auto& word : choices.words) words += (words.empty() ? "" : " ") + zsh_field(word, ":");
  return choices.files ? fmt::format("{{_files; compadd {}}}", words) : fmt::format("({})", words);
}

std::string zsh_option(const Option& option) {
  const auto text = fmt::format("[{}]", zsh_field(short_text(option.text), "[]:\\"));
  const bool is_long = option.name.starts_with("--");
  const auto value = option.value.empty() ? std::string()
                                          : fmt::format(":{}:{}", zsh_field(option.value, ":"),
                                                        zsh_action(choices_of(option.value)));
  const auto* sign = option.value.empty() ? "" : is_long ? "=" : "+";
  const auto* repeats = option.repeatable ? "*" : "";
  auto line = " \\\n            " + quoted(repeats + option.name + sign + text + value);
  if (!option.short_name.empty()) {
    line += " \\\n            " + quoted(option.short_name + text + value);
  }
  return line;
}

std::string zsh_commands(const std::vector<Page>& commands) {
  std::string text = "            commands=(\n";
  for (const auto& command : commands) {
    const auto summary = short_text(command.summary);
    text +=
        fmt::format("                {}\n", quoted(zsh_field(command.name, ":") + ":" + summary));
  }
  return text + "            )\n            _describe -t commands command commands\n";
}

}  // namespace

std::string zsh_completion(const Page& program) {
  std::string groups, contexts;
  for (const auto& [name, page, words] : contexts_of(program)) {
    contexts += fmt::format("        {})\n", quoted(name));
    const bool is_group = words > 1 && !page->commands.empty();
    if (is_group) {
      groups += fmt::format("        ({}) at={} ;;\n", name, words + 1);
      contexts += "            if [[ $PREFIX == -* ]]; then compadd -- --help; return; fi\n";
      if (words > 2) contexts += "            if ((CURRENT < at)); then _files; return; fi\n";
      contexts += zsh_commands(page->commands) + "            ;;\n";
      continue;
    }
    if (page == &program) {
      contexts += "            if ((CURRENT == 2)) && [[ $PREFIX != -* ]]; then\n" +
                  zsh_commands(program.commands) + "            return; fi\n";
    }
    contexts += "            _arguments";
    for (const auto& option : options_of(*page)) contexts += zsh_option(option);
    const auto operands = operands_of(program, *page);
    if (page != &program && (operands.files || !operands.words.empty())) {
      contexts += " \\\n            " + quoted("*:operand:" + zsh_action(operands));
    }
    contexts += "\n            ;;\n";
  }
  return fmt::format(
      R"(#compdef {0}
# Completion of {0} for zsh. `{0} completion zsh` prints it.
_{0}() {{
    local command='' at=0
    local -a commands
    if ((CURRENT > 2)) && [[ $words[2] != -* ]]; then command=$words[2]; fi
    case $command in
{1}    esac
    if ((at && CURRENT > at)); then
        command+=" $words[at]"
        words=("$words[1]" "${{(@)words[at + 1, -1]}}")
        ((CURRENT -= at - 1))
    elif [[ $command ]] && ((at == 0)); then
        words=("${{(@)words[2, -1]}}")
        ((CURRENT -= 1))
    fi
    case $command in
{2}    esac
}}
if [[ $funcstack[1] == _{0} ]]; then _{0} "$@"; else compdef _{0} {0}; fi
)",
      program.name, groups, contexts);
}

namespace {

// -x: the value is one of `words` or anything that is no file; -r: it is a file, or any word.
std::string fish_option(const Option& option, const std::string& condition,
                        const std::string& program) {
  std::string line = fmt::format("complete -c {} -n {}", program, condition);
  if (option.name.starts_with("--")) {
    line += " -l " + option.name.substr(2);
  } else {
    line += " -s " + option.name.substr(1);
  }
  if (!option.short_name.empty()) line += " -s " + option.short_name.substr(1);
  if (!option.value.empty()) {
    const auto choices = choices_of(option.value);
    line += choices.files ? " -r -F" : " -x";
    if (!choices.words.empty()) {
      line += fmt::format(" -a {}", quoted(fmt::format("{}", fmt::join(choices.words, " "))));
    }
  }
  return line + fmt::format(" -d {}\n", quoted(short_text(option.text)));
}

}  // namespace

std::string fish_completion(const Page& program) {
  std::string groups, rules;
  for (const auto& [name, page, words] : contexts_of(program)) {
    const bool is_group = words > 1 && !page->commands.empty();
    if (is_group) groups += fmt::format("        case {}\n            set at {}\n", name, words);
    const auto condition = quoted(fmt::format("__{}_completes {}", program.name, name));
    for (const auto& option : options_of(*page)) {
      rules += fish_option(option, condition, program.name);
    }
    if (is_group || page == &program) {
      // At the place of the command's name, and nowhere behind.
      const auto here = is_group ? quoted(fmt::format("__{0}_completes {1}; and __{0}_is_at {2}",
                                                      program.name, name, words))
                                 : quoted(fmt::format("__{}_is_at 1", program.name));
      for (const auto& command : page->commands) {
        rules += fmt::format("complete -c {} -n {} -a {} -d {}\n", program.name, here, command.name,
                             quoted(short_text(command.summary)));
      }
      if (words > 2) {
        rules += fmt::format("complete -c {0} -n '__{0}_completes {1}; and __{0}_is_at 2' -F\n",
                             program.name, name);
      }
      continue;
    }
    const auto operands = operands_of(program, *page);
    if (!operands.words.empty()) {
      rules += fmt::format("complete -c {} -n {} -a {}\n", program.name, condition,
                           quoted(fmt::format("{}", fmt::join(operands.words, " "))));
    }
    if (operands.files) rules += fmt::format("complete -c {} -n {} -F\n", program.name, condition);
  }
  return fmt::format(
      R"fish(# Completion of {0} for fish. `{0} completion fish` prints it.
# The command whose words are typed: '', 'snapshot', 'snapshot export'.
function __{0}_command
    set -l words (commandline -opc)
    set -l at 0
    if test (count $words) -lt 2; or string match -q -- '-*' $words[2]
        return
    end
    switch $words[2]
{1}    end
    if test $at -gt 0; and test (count $words) -gt $at
        echo $words[2] $words[(math $at + 1)]
    else
        echo $words[2]
    end
end
function __{0}_completes
    test "$(__{0}_command)" = "$argv"
end
# Whether the word that is typed has this number; the program's name has 0.
function __{0}_is_at
    test (count (commandline -opc)) -eq $argv[1]
end
complete -c {0} -f
{2})fish",
      program.name, groups, rules);
}

}  // namespace vmm::cli
