"""What the program says of itself: help, manual page, completion of shells, and README of the program. All but the last are made of
the tables that parse the command line."""
import fcntl
import glob
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
import xml.etree.ElementTree

from harness import Failure, Skip, suite, test
from harness.images import ROOT

GROUPS = ("ctl", "disk", "snapshot")


def output(t, *words, code=0):
    result = subprocess.run([t.images.vmm, *words], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(result.returncode, code, f"vmm {' '.join(words)}")
    t.equal(result.stderr, "", f"standard error of vmm {' '.join(words)}")
    return result.stdout


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def commands_of(t, *words):
    """The names in the list of commands of a help."""
    listed = output(t, *words, "--help").partition("Commands:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  ([a-z-]+)(?: |$)", listed, re.M)


def all_commands(t):
    """(words that name it, as `help` and as the command line want it)"""
    for command in commands_of(t):
        yield [command], [command]
        if command in GROUPS:
            operand = ["SOCKET"] if command == "ctl" else []
            for sub in commands_of(t, command):
                yield [command, sub], [command, *operand, sub]


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed; tools/setup installs it")


# ---- help

@test
def help_explains_each_command(t):
    overview = output(t, "help")
    t.equal(re.findall(r"^  vmm ([a-z]+) ", overview, re.M), commands_of(t), "the commands of `vmm help`")
    t.true({"ctl", "disk", "snapshot", "help", "completion", "manual"} <= set(commands_of(t)), "the commands")
    found = list(all_commands(t))
    t.true(len(found) > 25, f"all commands: {found}")
    for names, words in found:
        text = output(t, "help", *names)
        t.true(text.startswith(f"Usage: vmm {' '.join(words)}"), f"its usage: {text}")
        t.equal(output(t, *words, "--help"), text, f"--help of {words}")
        t.equal(output(t, *words, "-h"), text, f"-h of {words}")
    t.equal(output(t, "disk", "create", "x", "--format", "raw", "-h"), output(t, "help", "disk", "create"), "-h behind other words")
    t.equal(output(t, "-h"), output(t, "--help"), "vmm -h")
    t.equal(output(t, "--mem", "1G", "-h"), output(t, "--help"), "-h behind an option")
    t.contains(output(t, code=1), "vmm help COMMAND")
    for word in "--json --since --base".split():
        t.contains(output(t, "help", "snapshot"), word, "the help of a group has its commands' options")


@test
def help_explains_every_option(t):
    text = output(t, "--help")
    for option in ("--kernel --initrd --append --disk --mem --cpus --net --vsock --balloon --rng --pmem --serial --control --config "
                   "--print-config --log-level --log-file --name --dry-run --version --help --no-reboot "
                   "--restore --resume --paused --ready-fd").split():
        t.true(re.search(rf"^  (-h, )?{option}( \S|  |$)", text, re.M), f"--help explains {option}")
    t.contains(text, "Exit status")
    foreign = "Image" if os.uname().machine == "x86_64" else "bzImage"
    for told in (text, output(t, "manual")):
        t.true(not re.search(rf"\b{foreign}\b", told), f"kernels of another architecture are spoken of: {foreign}")


@test
def help_fits_the_terminal(t):
    def longest(text):
        return max(len(line) for line in text.splitlines())
    for names, _ in [([], []), *all_commands(t)]:
        t.true(longest(output(t, "help", *names)) <= 80, f"the help of {names} is 80 columns wide at most")
    t.true(longest(output(t, "--help")) <= 80, "so is --help")

    def on_terminal(columns):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        with subprocess.Popen([t.images.vmm, "--help"], stdin=subprocess.DEVNULL, stdout=slave) as process:
            os.close(slave)
            text = b""
            while data := read_or_nothing(master, 10 * t.patience):
                text += data
            t.equal(process.wait(10 * t.patience), 0)
        os.close(master)
        return text.decode().replace("\r", "")
    t.equal(on_terminal(80), output(t, "--help"), "a terminal of 80 columns")
    t.between(longest(on_terminal(100)), 90, 100, "the width on a terminal of 100 columns")
    t.true(longest(on_terminal(64)) <= 64, "no line is longer than the terminal")


def read_or_nothing(fd, seconds):
    if not select.select([fd], [], [], seconds)[0]:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:     # EIO: the other end was closed
        return b""


@test
def version(t):
    with open(os.path.join(ROOT, "meson.build")) as file:
        number = re.search(r"version: '(\d+\.\d+\.\d+)'", file.read()).group(1)
    t.equal(output(t, "--version"), f"vmm {number}\n", "the version of meson.build")


@test
def print_config_opens_nothing(t):
    text = output(t, "--kernel", t.path("none"), "--disk", t.path("none"), "--print-config")
    t.contains(text, t.path("none"))


@test
def print_config_is_typed_and_read_back(t):
    words = ["--kernel", "k", "--mem", "2G", "--disk", "a,,b=c,ro,bps=10M", "--net", "user,restrict=on,hostfwd=tcp::8080-:80", "--net",
             "tap=t0,mac=52:54:00:12:34:56", "--net", "socket=/run/a,,b,mac=52:54:00:12:34:57", "--net", "fd=5:6", "--net", "unplugged,queues=2",
             "--vsock", "/run/v,cid=9", "--serial", "file:/c,max=1M", "--name", "12", "--no-reboot"]
    text = output(t, *words, "--print-config")
    t.equal(json.loads(text), {
        "version": 1, "kernel": "k", "mem": 2 << 30, "disk": [{"path": "a,b=c", "ro": True, "bps": 10 << 20}],
        "net": [{"user": True, "hostfwd": ["tcp:127.0.0.1:8080-:80"], "restrict": True}, {"tap": "t0", "mac": "52:54:00:12:34:56"},
                {"socket": "/run/a,b", "mac": "52:54:00:12:34:57"}, {"fd": [5, 6]}, {"unplugged": True, "queues": 2}],
        "vsock": {"path": "/run/v", "cid": 9}, "serial": {"kind": "file", "path": "/c", "max": 1 << 20}, "name": "12", "reboot": False},
        "--print-config")
    t.equal(output(t, "--config", t.file("config.json", text.encode()), "--print-config"), text, "--print-config of what it printed")


# ---- the manual page

@test
def manual_names_everything(t):
    need("mandoc")
    page = output(t, "manual")
    plain = subprocess.run(["mandoc", "-Tutf8", "-Owidth=200"], input=page, text=True, capture_output=True, check=True).stdout
    plain = re.sub(".\b", "", plain)       # bold and underlined, as a printer does it
    for names, words in all_commands(t):
        t.contains(plain, " ".join(words), f"the manual has {names}")
        for option in options_in(output(t, "help", *names)):
            t.contains(plain, option, f"the manual has the options of {names}")
    t.equal(options_in(output(t, "--help")) - options_in(plain), set(), "options of --help that the manual lacks")
    environment = plain.partition("\nENVIRONMENT\n")[2].partition("\nEXIT STATUS\n")[0]
    for variable in variables_of_the_program():
        t.contains(environment, variable)
    for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES"):
        t.true(re.search(rf"^{title}$", plain, re.M), f"the manual has a section {title}")


def variables_of_the_program():
    """Its own, as its sources ask for them."""
    found = set()
    for path in glob.glob(os.path.join(ROOT, "src/**/*.cpp"), recursive=True):
        if not path.endswith("_test.cpp"):
            with open(path) as file:
                found |= set(re.findall(r'(?:getenv|variable)\("(VMM_\w+)"\)', file.read()))
    return sorted(found)


@test
def manual_has_no_fault(t):
    need("mandoc", "groff", "man")
    path = t.file("vmm.1", output(t, "manual").encode())
    for checker in (["mandoc", "-Tlint", "-Wall", path], ["groff", "-ww", "-mdoc", "-Tutf8", "-z", path], ["man", "--warnings", "-l", path]):
        result = subprocess.run(checker, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                                env={**os.environ, "LC_ALL": "C.UTF-8", "MANPAGER": "cat"})
        said = result.stderr + (result.stdout if checker[0] == "mandoc" else "")
        t.equal((result.returncode, said), (0, ""), " ".join(checker))


# ---- completion

# What is typed, and all that a shell offers there. Options of the root are only looked for; others are all of them.
LEVELS = ["trace", "debug", "info", "warn", "error", "off"]
COMPLETIONS = [
    ("vmm sn", ["snapshot"]),
    ("vmm snapshot re", []),
    ("vmm disk re", ["resize", "rebase"]),
    ("vmm snapshot ", ["create", "ls", "inspect", "verify", "rm", "prune", "merge", "export", "import"]),
    ("vmm snapshot export --s", ["--since"]),
    ("vmm --ne", ["--net"]),
    ("vmm --kernel a --ne", ["--net"]),
    ("vmm --log-level ", LEVELS),
    ("vmm --kernel an-im", ["an-image"]),
    ("vmm --mem ", []),
    ("vmm disk create --format ", ["raw", "qcow2"]),
    ("vmm disk info an-im", ["an-image"]),
    ("vmm ctl an-im", ["an-image"]),
    ("vmm ctl an-image po", ["power-button"]),
    ("vmm completion ", ["bash", "zsh", "fish"]),
    ("vmm help sn", ["snapshot"]),
]


def in_folder(t):
    """A folder with one file, in which a shell completes."""
    folder = t.path("here")
    os.mkdir(folder)
    with open(os.path.join(folder, "an-image"), "w"):
        pass
    return folder


def compare(t, shell, offered):
    for typed, wanted in COMPLETIONS:
        t.equal(sorted(offered(typed)), sorted(wanted), f"{shell} completes '{typed}'")


@test
def bash_completes(t):
    script, folder = t.file("vmm.bash", output(t, "completion", "bash").encode()), in_folder(t)

    def offered(typed):
        words = typed.split(" ")
        ask = f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vmm; printf "%s\\n" "${{COMPREPLY[@]}}"'
        result = subprocess.run(["bash", "-uc", ask, "bash", *words], cwd=folder, text=True, capture_output=True)
        t.equal((result.returncode, result.stderr), (0, ""), f"completion of {typed}")
        return result.stdout.split()
    compare(t, "bash", offered)
    t.equal(offered("vmm --log-level = w"), ["warn"], "of --log-level=w, which bash takes apart")
    t.equal(set(offered("vmm --")), options_in(output(t, "--help").partition("Keys of")[0]), "all options of the program")
    registered = subprocess.run(["bash", "-c", f"source {script}; complete -p vmm"], text=True, capture_output=True).stdout
    t.contains(registered, "-F _vmm vmm")


@test
def fish_completes(t):
    need("fish")
    script, folder = t.file("vmm.fish", output(t, "completion", "fish").encode()), in_folder(t)

    def offered(typed):
        result = subprocess.run(["fish", "--no-config", "-c", f"source {script}; complete -C '{typed}'"], cwd=folder, text=True,
                                capture_output=True, env={**os.environ, "HOME": t.folder})
        t.equal((result.returncode, result.stderr), (0, ""), f"completion of {typed}")
        # Where nothing begins so, fish offers what has it in its middle.
        found = [line.split("\t")[0] for line in result.stdout.splitlines()]
        return [word for word in found if word.startswith(typed.split(" ")[-1])]
    compare(t, "fish", offered)


# Offers nothing of its own: says what the completion system would, between marks.
# compinit opens each function there is, a thousand files. Here it finds ours and the general ones.
ZSH = """PS1='ready> '
all=($fpath)
fpath=(%(folder)s ${(M)fpath:#*/Completion(|/Base)})
autoload -Uz compinit && compinit -u -D
fpath+=($all)
autoload -Uz _files _path_files _list_files
zstyle ':completion:*' completer _complete
compadd () {
    local -a found
    if [[ ${@[(I)-(O|A|D)]} -gt 0 ]]; then builtin compadd "$@"; return; fi
    builtin compadd -O found "$@"
    print -l -- $found >>%(said)s
    builtin compadd "$@"
}
show () { zle complete-word; print done >>%(said)s; zle kill-whole-line; }
zle -C complete-word complete-word _main_complete
zle -N show
bindkey '^T' show
setopt no_auto_list no_beep
"""


@test
def zsh_completes(t):
    need("zsh")
    folder, said = in_folder(t), t.path("said")
    with open(t.path("_vmm"), "w") as file:
        file.write(output(t, "completion", "zsh"))
    with open(t.path(".zshrc"), "w") as file:
        file.write(ZSH % {"said": said, "folder": t.folder})
    master, slave = pty.openpty()
    zsh = subprocess.Popen(["zsh", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True,
                           env={**os.environ, "ZDOTDIR": t.folder, "HOME": t.folder, "TERM": "dumb"})
    os.close(slave)

    def offered(typed):
        open(said, "w").close()
        os.write(master, typed.encode() + b"\x14")
        deadline, shown = time.monotonic() + 30 * t.patience, b""
        while time.monotonic() < deadline:
            shown += read_or_nothing(master, 0.1)
            with open(said) as file:
                words = file.read().split("\n")
            if "done" in words:
                return {word.rstrip(" =/") for word in words if word and word != "done"}
        raise Failure(f"zsh does not complete '{typed}': {shown.decode(errors='replace')}")
    try:
        greeting = b""
        while b"ready> " not in greeting:       # what is typed before may be lost
            more = read_or_nothing(master, 30 * t.patience)
            t.true(more, f"zsh does not prompt: {greeting}")
            greeting += more
        for typed, wanted in COMPLETIONS[::2]:      # as it takes seconds for each on an emulated host
            t.equal(sorted(offered(typed)), sorted(wanted), f"zsh completes '{typed}'")
    finally:
        zsh.kill()
        zsh.wait()
        os.close(master)


# ---- README

@test
def readme_and_help_name_the_same_options(t):
    with open(os.path.join(ROOT, "README.md")) as file:
        readme = file.read()
    helped = options_in(output(t, "--help"))
    t.contains(helped, "--kernel")
    missing = sorted(option for option in helped if not re.search(rf"(?<![\w-]){option}(?![\w-])", readme))
    t.equal(missing, [], "options of --help that README does not name")
    # Options of vmm itself: in a line, or a line of code, that runs it.
    unknown, known = set(), set()
    lines = readme.splitlines()
    for line, next in zip(lines, lines[1:] + [""]):
        if re.search(r"(^|[\s`/])vmm\s+--", line) and "unknown option" not in line + next:
            used = options_in(line[re.search(r"(^|[\s`/])vmm\s+--", line).start():])
            unknown, known = unknown | used - helped, known | used & helped
    t.equal(sorted(unknown), [], "options in README's commands that --help does not know")
    t.true({"--kernel", "--disk"} <= known, f"options in README's commands: {known}")
    for names, _ in all_commands(t):
        t.true(re.search(rf"(?<![\w-]){names[-1]}(?![\w-])", readme), f"README names `vmm {' '.join(names)}`")


@test
def readme_names_the_groups_of_tests(t):
    with open(os.path.join(ROOT, "README.md")) as file:
        said = file.read().partition("Tests with guests run on both architectures:")[2].partition("\n\nOn an x86-64 machine")[0]
    words = set(re.findall(r"[a-z]+", re.sub(r"\(.*?\)", "", said.replace("x86-64", ""), flags=re.S))) - {"and", "on", "alone"}
    t.equal(words, {one.name.split(".")[0] for one in suite.TESTS if one.folder == "vm"}, "the groups that README names")


@test
def readme_has_the_figures_that_are_kept(t):
    """Tables and plots are made of tests/bench/results.json."""
    def bench(*words):
        return subprocess.run([os.path.join(ROOT, "tools/bench"), *words], text=True, capture_output=True, check=True).stdout
    with open(os.path.join(ROOT, "README.md")) as file:
        readme = file.read()
    table = bench("--table")
    t.true(table in readme, f"README's table is that of `tools/bench --table`:\n{table}")
    t.true(table.count("\n") <= 12, "README has ten headlines at most")
    kept = os.path.join(ROOT, "tests/bench/results.json")
    with open(os.path.join(ROOT, "tests/bench/RESULTS.md")) as file:
        t.true(bench("--table", kept) in file.read(), "the table of RESULTS.md is that of `tools/bench --table tests/bench/results.json`")
    for path in bench("--plot", kept, t.path("plots")).split():
        with open(path) as drawn, open(os.path.join(ROOT, "tests/bench/plots", os.path.basename(path))) as file:
            t.true(drawn.read() == file.read(), f"tests/bench/plots/{os.path.basename(path)} is as `tools/bench --plot` draws it")


@test
def plots_show_the_spread(t):
    figures = {"topics": [{"name": "one", "title": "A <title>", "unit": "s", "less_is_better": True, "date": "2026-11-30", "method": "",
                           "rows": {"row": {"vmm": [1.0, 3.0, 2.0], "qemu": [4.0, 4.0, 5.0]}, "alone": {"vmm": [1]}}}]}
    path = t.file("figures.json", json.dumps(figures).encode())
    (drawn,) = subprocess.run([os.path.join(ROOT, "tools/bench"), "--plot", path, t.path("plots")], text=True, capture_output=True,
                              check=True).stdout.split()
    with open(drawn) as file:
        picture = file.read()
    root = xml.etree.ElementTree.fromstring(picture)
    tag = "{http://www.w3.org/2000/svg}"
    bars = [float(bar.get("width")) for bar in root.findall(f"{tag}rect") if bar.get("height") == "13"]
    t.between(bars[1] / bars[0], 1.99, 2.01, "the ratio of QEMU's bar to vmm's")
    spread = [line for line in root.findall(f"{tag}line") if line.get("class") is None]
    t.equal(len(spread), 2, "lines for rows of several values")
    t.between(float(spread[0].get("x2")) - float(spread[0].get("x1")), bars[0] * 0.99, bars[0] * 1.01, "vmm's from 1 to 3, around 2")
    t.contains(picture, "from the least to the greatest")
    refused = subprocess.run([os.path.join(ROOT, "tools/bench"), "--plot", t.file("none", b"{}")], text=True, capture_output=True)
    t.equal((refused.returncode, refused.stderr.count("\n")), (1, 1), f"a file without figures: {refused.stderr}")
