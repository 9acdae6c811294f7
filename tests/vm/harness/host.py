"""The host that the machines run on: its processes, taps, and a way to look at what is left behind."""
import os
import subprocess


def run(*command, check=True, **how):
    result = subprocess.run(command, text=True, capture_output=True, **how)
    if check and result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def is_emulated():
    """Whether this is the host of tools/test-host, whose processor is QEMU's emulation."""
    with open("/proc/sys/kernel/hostname") as name:
        return name.read().strip() == "test-host"


def _status(pid):
    """(name, parent, state) of a process, or None."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            text = stat.read()
    except OSError:
        return None
    name = text[text.index("(") + 1:text.rindex(")")]
    fields = text[text.rindex(")") + 2:].split()
    return name, int(fields[1]), fields[0]


def processes():
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (status := _status(entry)):
            found[int(entry)] = status
    return found


def children(pid):
    return {child: name for child, (name, parent, state) in processes().items()
            if parent == pid and state != "Z"}


def machine_processes():
    """Processes of vmm and of its network, by id."""
    return {pid: name for pid, (name, _, state) in processes().items()
            if name in ("vmm", "vmm-net") and state != "Z"}


def links():
    return set(os.listdir("/sys/class/net"))


def resident(pid):
    """Memory of a process in bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Rss:"):
                return int(line.split()[1]) << 10
    raise RuntimeError("smaps_rollup has no Rss")


def total_memory():
    with open("/proc/meminfo") as meminfo:
        return int(meminfo.readline().split()[1]) << 10


def blocks(path):
    """Bytes that a file takes on its file system."""
    return os.stat(path).st_blocks * 512


class Bridge:
    """A bridge with taps, as an administrator makes them; gone with the `with`."""

    def __init__(self, name, taps, multi_queue=False, address=None):
        self.name, self.taps = name, taps
        self._multi_queue, self._address = multi_queue, address

    def __enter__(self):
        run("ip", "link", "add", self.name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        if self._address:
            run("ip", "address", "add", self._address, "dev", self.name)
        for tap in self.taps:
            run("ip", "tuntap", "add", tap, "mode", "tap", *(["multi_queue"] if self._multi_queue else []))
            run("ip", "link", "set", tap, "master", self.name, "up")
        run("ip", "link", "set", self.name, "up")
        return self

    def __exit__(self, *unused):
        for link in (*self.taps, self.name):
            run("ip", "link", "delete", link, check=False)
