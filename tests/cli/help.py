"""What the program says of itself, and README of the program."""
import os
import re
import subprocess

from harness import Skip, suite, test
from harness.images import ROOT


def output(t, *words, code=0):
    result = subprocess.run([t.images.vmm, *words], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(result.returncode, code, f"vmm {' '.join(words)}")
    t.equal(result.stderr, "", f"standard error of vmm {' '.join(words)}")
    return result.stdout


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@test
def help_lists_the_commands(t):
    text = output(t, "help")
    commands = re.findall(r"^  vmm ([a-z]+) ", text, re.M)
    t.contains(commands, "ctl")
    for command in commands:
        t.contains(output(t, "help", command), f"vmm {command}")
    t.equal(output(t, "ctl", "--help"), output(t, "help", "ctl"))
    t.equal(output(t, "snapshot", "--help"), output(t, "help", "snapshot"))
    for word in "ls inspect verify rm merge export import --json --since --base".split():
        t.contains(output(t, "snapshot", "--help"), word)
    for text in (output(t, "snapshot", "--help"), output(t, "ctl", "--help")):
        t.true(all(len(line) <= 100 for line in text.splitlines()), "no line is longer than 100")
    t.contains(output(t, code=1), "vmm --kernel")


@test
def help_explains_every_option(t):
    text = output(t, "--help")
    for option in ("--kernel --initrd --append --disk --mem --cpus --net --vsock --balloon --rng --serial --control --config "
                   "--print-config --log-level --log-file --name --dry-run --version --help --no-reboot "
                   "--restore --paused --ready-fd --dump-acpi").split():
        t.true(re.search(rf"^  {option}( [A-Z]|  )", text, re.M), f"--help explains {option}")
    for line in text.splitlines():
        t.true(len(line) <= 100, f"a line of --help is longer than 100: {line}")
    t.contains(text, "Exit codes")


@test
def version(t):
    t.true(re.fullmatch(r"vmm \d+\.\d+\.\d+\n", output(t, "--version")), "--version prints name and version")


@test
def print_config_opens_nothing(t):
    text = output(t, "--kernel", t.path("none"), "--disk", t.path("none"), "--print-config")
    t.contains(text, t.path("none"))


@test
def readme_and_help_name_the_same_options(t):
    path = os.path.join(ROOT, "README.md")
    if not os.path.exists(path):
        raise Skip("there is no README.md yet")
    with open(path) as file:
        readme = file.read()
    helped = options_in(output(t, "--help"))
    missing = sorted(option for option in helped if not re.search(rf"(?<![\w-]){option}(?![\w-])", readme))
    t.equal(missing, [], "options of --help that README does not name")
    # Options of vmm itself: in a line, or a line of code, that runs it.
    unknown = set()
    lines = readme.splitlines()
    for line, next in zip(lines, lines[1:] + [""]):
        if re.search(r"(^|[\s`/])vmm\s+--", line) and "unknown option" not in next:
            unknown |= options_in(line[re.search(r"(^|[\s`/])vmm\s+--", line).start():]) - helped
    t.equal(sorted(unknown), [], "options in README's commands that --help does not know")
    for command in re.findall(r"^  ([a-z-]+)  ", output(t, "ctl", "--help"), re.M):
        t.contains(readme, command, "a command of `vmm ctl` in README")


@test
def readme_counts_the_tests_with_guests(t):
    with open(os.path.join(ROOT, "README.md")) as file:
        table = file.read().partition("\n## Tests\n")[2].partition("\n## ")[0]
    said = {name: (int(x86_64), int(aarch64)) for name, x86_64, aarch64 in
            re.findall(r"^\| ([a-z]+) \| (\d+) \| (\d+) \|", table, re.M)}
    there = {}
    for one in suite.TESTS:
        if one.folder == "vm":
            there.setdefault(one.name.split(".")[0], []).append(one.only)
    t.equal(said, {name: tuple(sum(only in (None, architecture) for only in all_of_it) for architecture in ("x86_64", "aarch64"))
                   for name, all_of_it in there.items()}, "how many tests README says that there are")
