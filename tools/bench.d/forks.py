"""Fifty copies of a running guest that holds 200 MiB: what each costs the host, by its own private pages and by what the host has
left; and that each answers, with a clock that is right and random numbers of its own."""
import json
import os
import re
import subprocess
import time

import restore

NATIVE = False
UNIT = "MiB; seconds; counts"
LESS_IS_BETTER = True
COPIES = 50
# A process that the guest starts for each line would be what its copies differ by: the shell alone writes it.
GUEST = ("mount -o remount,size=220M /tmp; head -c 209715200 /dev/urandom >/tmp/held; i=0; while read -t 3 line || true; do i=$((i+1)); "
         "read -r r </proc/sys/kernel/random/uuid; echo tick $i $r $EPOCHREALTIME; done")
LINES = 3       # of each copy, whose clock is then known as well as the quickest of them came


def available():
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        return int(re.search(r"MemAvailable: +(\d+)", meminfo.read()).group(1)) / 1024


def private(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", rollup.read(), re.M)) / 1024


class Heard:
    """What a copy's console says, as it comes."""

    def __init__(self, copy):
        self._path, self.pid = copy["console"], copy["pid"]
        self.lines, self.number, self.error = 0, None, float("inf")

    def look(self):
        """A line tells the guest's clock before it is written, and its file the host's after: their difference is the clock's error
        and how long the line took."""
        with open(self._path, "rb") as console:
            text = console.read()
            came = os.fstat(console.fileno())
        found = re.findall(rb"^tick \d+ ([0-9a-f-]{36}) ([0-9.]+)\r?$", text, re.M)
        if len(found) > self.lines and text.endswith(b"\n") and came.st_size == len(text):
            self.lines, self.number = len(found), found[-1][0]
            self.error = min(self.error, abs(came.st_mtime - float(found[-1][1])))


def listen(heard, lines):
    """Until each copy has been heard that often, or for two minutes."""
    deadline = time.monotonic() + 120
    while min(one.lines for one in heard) < lines and time.monotonic() < deadline:
        for one in heard:
            one.look()
        time.sleep(0.1)


def run(environment):
    with restore.original(environment, memory=512, words=GUEST) as (running, save, directory, _):
        control = os.path.join(directory, "control")
        running.wait_for("tick 2")
        copies = []
        try:
            # The first one brings the file into the page cache and records the working set.
            before = available()
            start = time.monotonic()
            result = subprocess.run([environment.vmm, "ctl", control, "fork", os.path.join(directory, "forked"), "-n", str(COPIES)],
                                    check=True, stdout=subprocess.PIPE, text=True)
            took = time.monotonic() - start
            copies = json.loads(result.stdout)
            saved = sum(os.stat(os.path.join(directory, "forked", name)).st_blocks / 2048 for name in os.listdir(os.path.join(directory, "forked")))
            heard = [Heard(copy) for copy in copies]
            listen(heard, 1)
            shared = sum(private(copy["pid"]) for copy in copies)
            left = before - available() - saved
            listen(heard, LINES)
            yield f"save and start of {COPIES}, seconds", "vmm", took
            yield "private memory of a copy, MiB", "vmm", shared / COPIES
            yield "memory of the host that a copy takes, MiB", "vmm", left / COPIES
            yield "copies that answer", "vmm", sum(one.lines >= LINES for one in heard)
            yield "different random numbers", "vmm", len({one.number for one in heard})
            yield "largest error of a clock, seconds", "vmm", max(one.error for one in heard)
        finally:
            for copy in copies:
                subprocess.run([environment.vmm, "ctl", copy["control"], "stop"], check=False, stderr=subprocess.DEVNULL)
