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
GUEST = ("mount -o remount,size=220M /tmp; head -c 209715200 /dev/urandom >/tmp/held; i=0; while read -t 3 line || true; do i=$((i+1)); "
         "r=$(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' '); echo tick $i $r $EPOCHREALTIME; done")


def available():
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        return int(re.search(r"MemAvailable: +(\d+)", meminfo.read()).group(1)) / 1024


def private(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", rollup.read(), re.M)) / 1024


def last_line(path):
    """(its random number, how many seconds its clock differs from the time at which it came); None: there is none, or it is not whole."""
    with open(path, "rb") as console:
        text = console.read()
        came = os.fstat(console.fileno())
    found = re.findall(rb"^tick \d+ ([0-9a-f]{16}) ([0-9.]+)\r?$", text, re.M)
    if not found or not text.endswith(b"\n") or came.st_size != len(text):
        return None
    return found[-1][0], abs(came.st_mtime - float(found[-1][1]))


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
            deadline = time.monotonic() + 120
            answers = {}
            while len(answers) < len(copies) and time.monotonic() < deadline:
                for copy in copies:
                    if copy["pid"] not in answers and (line := last_line(copy["console"])):
                        answers[copy["pid"]] = line
                time.sleep(0.2)
            shared = sum(private(copy["pid"]) for copy in copies)
            left = before - available() - saved
            yield f"save and start of {COPIES}, seconds", "vmm", took
            yield "private memory of a copy, MiB", "vmm", shared / COPIES
            yield "memory of the host that a copy takes, MiB", "vmm", left / COPIES
            yield "copies that answer", "vmm", len(answers)
            yield "different random numbers", "vmm", len({number for number, _ in answers.values()})
            yield "largest error of a clock, seconds", "vmm", max(error for _, error in answers.values())
        finally:
            for copy in copies:
                subprocess.run([environment.vmm, "ctl", copy["control"], "stop"], check=False, stderr=subprocess.DEVNULL)
