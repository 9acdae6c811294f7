"""Restore: from the start of the process to three moments of a machine that goes on from a snapshot (small kernel, one vCPU,
256 MiB), its directory or the archive of it, and to the first line of a cold boot beside it. The page cache is warm, as the snapshot lies
in memory, and cold, on a file system of its own (ext4 on a loop device in memory: what reading costs, without a disk's time)."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile

import host_memory
import peers
import snapshots

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True

PAIRS = 3  # of restores in a repetition, with the working set known and without

# Prints a line every 20 ms; asked for work, it reads 16 MiB.
GUEST = ("head -c 16777216 /dev/zero | tr '\\0' x >/tmp/set; i=0; while :; do if read -t 0.02 line; then "
         "md5sum </tmp/set; echo worked; fi; i=$((i+1)); echo tick $i; done")


class Restored:
    """The same program with other words."""
    name = "vmm"

    def __init__(self, vmm, directory):
        self.vmm, self.directory = vmm, directory

    def command(self, guest, directory):
        return [self.vmm, "--restore", self.directory, "--log-level", "info"]


def controlled(vmm, control):
    """vmm with a control socket."""
    plain = vmm.command
    return type("Controlled", (), {"name": "vmm", "command": lambda self, g, d: [*plain(g, d), "--control", control]})()


@contextlib.contextmanager
def original(environment, memory=256, words=GUEST, disks=(), ready="tick 3"):
    """A running guest; save(name, *how) -> the answer; where saves lie; how long its cold boot took."""
    guest = peers.Guest(environment.images["kernel"], environment.images["initramfs"],
                        "vmm.run64=" + peers.encoded(words), memory=memory, disks=list(disks))
    directory = tempfile.mkdtemp(prefix="vmm-bench-", dir="/dev/shm")
    control = os.path.join(directory, "control")
    vmm = next(peer for peer in environment.peers if peer.name == "vmm")
    try:
        with peers.Running(controlled(vmm, control), guest) as running:
            cold = running.wait_for("vmm-guest: init up")
            running.wait_for(ready)

            def save(name, *how):
                result = subprocess.run([environment.vmm, "ctl", control, "snapshot", os.path.join(directory, name), *how],
                                        check=True, stdout=subprocess.PIPE, text=True)
                return json.loads(result.stdout)
            yield running, save, directory, cold
    finally:
        shutil.rmtree(directory)


def restore(environment, directory, label):
    host_memory.forget_last_guest()
    with peers.Running(Restored(environment.vmm, directory), None) as running:
        first = running.wait_for("tick")
        running.type("work")
        worked = running.wait_for("worked")
        runs = re.search(rb"the guest runs, ([0-9.]+) ms", running.seen)
        if runs:
            yield f"first KVM_RUN, by its own clock{label}", "vmm", float(runs.group(1)) / 1000
        yield f"first line of the guest{label}", "vmm", first
        yield f"16 MiB read{label}", "vmm", worked


def working_set(directory):
    return os.path.join(directory, "working-set")


def restore_uncounted(environment, directory):
    """The emulator translates the code of a restore, which what ran before has put out of its cache; and vmm writes the working set down."""
    with peers.Running(Restored(environment.vmm, directory), None) as running:
        running.wait_for("tick")
        while os.path.isdir(directory) and not os.path.exists(working_set(directory)):
            running.wait_for("tick")


@contextlib.contextmanager
def on_a_disk(directory):
    """A file system that the page cache is between: where it is mounted."""
    image, mount = os.path.join(directory, "disk.img"), os.path.join(directory, "disk")
    os.mkdir(mount)
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)
        os.unlink(image)


def forget(directory):
    """Puts the files of a directory out of the page cache."""
    subprocess.run(["sync"], check=True)
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(environment):
    with original(environment) as (running, save, directory, cold):
        yield "cold boot, first line of init", "vmm", cold
        save("whole")
        saved = os.path.join(directory, "whole")
        restore_uncounted(environment, saved)
        known, aside = working_set(saved), os.path.join(directory, "aside")
        for _ in range(PAIRS):
            os.rename(known, aside)
            yield from restore(environment, saved, "")
            os.rename(aside, known)
            yield from restore(environment, saved, ", working set known")
        subprocess.run([environment.vmm, "snapshot", "export", saved, saved + ".vmm"], check=True, stdout=subprocess.DEVNULL)
        restore_uncounted(environment, saved + ".vmm")
        yield from restore(environment, saved + ".vmm", ", from an archive")
        with on_a_disk(directory) as disk:
            save("disk/whole")      # a copy would have its digest compared before each restore
            copy = os.path.join(disk, "whole")
            restore_uncounted(environment, copy)
            forget(copy)
            yield from restore(environment, copy, ", page cache cold, working set known")
            os.unlink(working_set(copy))
            forget(copy)
            yield from restore(environment, copy, ", page cache cold")
    yield from snapshots.restores(environment)
