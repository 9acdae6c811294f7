"""The console's four other ends. (That of the other tests is a pipe.)"""
import hashlib
import os
import re
import signal
import socket
import stat
import termios

from harness import test


def mode_of(fd):
    mode = termios.tcgetattr(fd)
    return mode[0], mode[1], mode[3]


class Terminal:
    """A pseudo-terminal that vmm is started on."""

    def __init__(self, t, **how):
        self.master, self.slave = os.openpty()
        self.before = mode_of(self.slave)
        self.machine = t.small(console=False, prefix=[
            "sh", "-c", f'exec "$@" <{os.ttyname(self.slave)} >{os.ttyname(self.slave)}', "sh"], **how)
        self.console = self.machine.attach(self.master, self.master)
        self.console.expect("init up")

    def close(self):
        os.close(self.slave)    # the console's reader then sees the end


@test
def terminal_is_raw_and_restored(t):
    for how in ("x", "signals", "power off"):
        terminal = Terminal(t)
        console, machine = terminal.console, terminal.machine
        console.run("true")
        t.true(not mode_of(terminal.slave)[2] & (termios.ICANON | termios.ECHO | termios.ISIG),
               "the terminal is in raw mode")
        console.send("\x01h")
        console.expect("Ctrl-A x")
        # Twice, it reaches the guest.
        number = console.start("stty -icanon -echo </dev/console; head -c 1 </dev/console | od -An -tx1")
        console.expect(f"BEGIN{number}")
        console._position -= len(f"@@BEGIN{number}")
        console.send("\x01\x01")
        t.contains(console.finish(number)[0], "01")
        console.run("stty icanon </dev/console")
        if how == "x":
            console.send("\x01x")
            machine.ends(5)
        elif how == "signals":
            machine.signal(), machine.signal(signal.SIGINT)
            machine.ends(5)
        else:
            machine.power_off()
        t.equal(mode_of(terminal.slave), terminal.before, f"the terminal's mode after {how}")
        terminal.close()


@test
def control_c_is_the_guests(t):
    terminal = Terminal(t)
    number = terminal.console.start("trap 'echo interrupted' INT; sleep 30")
    terminal.console.expect(f"BEGIN{number}")
    terminal.console.send("\x03")
    terminal.console.expect("\\^C|interrupted", timeout=20)
    t.true(terminal.machine.alive(), "Ctrl-C does not end the machine")
    terminal.console.send("\x01x")
    terminal.machine.ends(5)
    terminal.close()


@test
def file(t):
    path = t.path("console")
    for i in range(2):
        t.small("--serial", f"file:{path}", run=f"echo to the file {i}", console=False).ends(0)
    with open(path) as file:
        text = file.read()
    for i in range(2):
        t.contains(text, f"to the file {i}")


@test
def file_has_a_limit(t):
    path = t.file("console", b"before\n".ljust(63 << 10, b"x"))
    t.small("--serial", f"file:{path},max=64K", run="seq 1 500; echo the end", console=False).ends(0)
    t.equal(sorted(name for name in os.listdir(t.folder) if name.startswith("console")), ["console", "console.1"])
    for name in (path, f"{path}.1"):
        t.between(os.path.getsize(name), 1, 64 << 10, name)
    with open(path) as text, open(f"{path}.1") as old:
        t.contains(text.read(), "the end")
        t.contains(old.read(), "before")


@test
def typed_ahead_from_a_file(t):
    """More than a port keeps, before the guest has a driver for it."""
    commands = t.file("commands", b"\n" * 1000 + b"".join(b"line %d\n" % i for i in range(100)) + b"end\n")
    machine = t.small(run='while read -r line && [ "$line" != end ]; do [ -z "$line" ] || echo "got $line"; done; echo end of input',
                      prefix=["sh", "-c", f'exec "$@" <{commands}', "sh"])
    machine.ends(0)
    t.equal(re.findall(r"^got line (\d+)$", machine.console.text, re.M), [str(i) for i in range(100)], "what the guest read")
    t.contains(machine.console.text, "end of input")


@test
def closed_streams(t):
    """A disk does not get the number of standard output."""
    disk = t.file("disk.img", size=1 << 20)
    t.small("--disk", disk, run="echo to the console", console=False, prefix=["sh", "-c", 'exec "$@" <&- >&-', "sh"]).ends(0)
    with open(disk, "rb") as file:
        t.equal(file.read().count(0), 1 << 20, "zeroes on the disk")


@test
def pty(t):
    machine = t.small("--serial", "pty", console=False)
    name = t.eventually(lambda: re.search(r"/dev/pts/\d+", machine.errors()), 10, "the name of the terminal").group()
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    console = machine.attach(os.dup(fd), fd)
    console.expect("init up")       # what comes before a driver listens is lost, as on any serial line
    t.equal(console.run("echo by terminal"), "by terminal")
    machine.power_off()


@test
def socket_takes_one_client_after_the_other(t):
    path = t.path("console")
    machine = t.small("--serial", f"socket:{path}", console=False)
    t.eventually(lambda: os.path.exists(path), 10, "the socket")
    t.equal(stat.S_IMODE(os.stat(path).st_mode), 0o600, "the socket's mode")
    for text in ("first", "second"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        console = machine.attach(os.dup(client.fileno()), client.fileno())
        if text == "first":
            console.expect("init up")
        t.equal(console.run(f"echo {text}"), text)
        if text == "first":
            client.shutdown(socket.SHUT_RDWR)
            client.detach()
            console.close()
        else:
            client.detach()
            machine.power_off()
    t.true(not os.path.exists(path), "the socket is gone with the machine")


@test
def none(t):
    machine = t.small("--serial", "none", run="ls /dev/ttyS0 >/dev/vda 2>&1", console=False)
    machine.ends(0)


@test
def much_output_and_input(t):
    """Nothing is lost or turned round, either way."""
    machine = t.small()
    output = machine.run("seq 1 3000", timeout=120)
    t.equal(output, "\n".join(str(i) for i in range(1, 3001)))
    lines = "".join(f"line {i} {'x' * 60}\n" for i in range(60))
    number = machine.console.start("md5sum </dev/null; n=0; while read -r l && [ \"$l\" != done ]; do n=$((n+1)); echo \"$l\"; done </dev/console | md5sum")
    machine.console.expect("d41d8")
    machine.console._position = machine.console.text.rindex("@@BEGIN")
    machine.console.send(lines + "done\n")
    t.contains(machine.console.finish(number, 120)[0], hashlib.md5(lines.encode()).hexdigest())
    machine.power_off()
