"""A snapshot of a Debian guest of 1 GiB as one file, against what of its memory and disk is resident; and a second one after a small change,
stored as what is new since the first.
How long a restore takes from the directory, and from the file, whose disk is unpacked before the start."""
import os
import subprocess
import tempfile
import shutil
import time

import peers
import restore

NATIVE = False
UNIT = "MiB; seconds"
LESS_IS_BETTER = True


def stored(path):
    return os.stat(path).st_blocks / 2048


def run(environment):
    directory = tempfile.mkdtemp(prefix="vmm-bench-", dir="/dev/shm")
    try:
        root = os.path.join(directory, "root.img")
        subprocess.run(["cp", "--sparse=always", environment.images["rootfs"], root], check=True)
        control = os.path.join(directory, "control")
        guest = peers.Guest(environment.images["kernel"], words=peers.TICKING, memory=1024, disks=[root])
        vmm = next(peer for peer in environment.peers if peer.name == "vmm")
        with peers.Running(restore.controlled(vmm, control), guest) as running:
            running.wait_for("login: ", 300)
            running.type("root")
            running.wait_for("# ")

            def save(name):
                path = os.path.join(directory, name)
                subprocess.run([environment.vmm, "ctl", control, "snapshot", path], check=True, stdout=subprocess.DEVNULL)
                return path

            def export(path, *how):
                start = time.monotonic()
                subprocess.run([environment.vmm, "snapshot", "export", path, path + ".vmm", *how], check=True)
                return stored(path + ".vmm"), time.monotonic() - start
            first = save("first")
            resident = stored(os.path.join(first, "memory"))
            size, took = export(first)
            disk = stored(os.path.join(first, "blk0.img"))
            yield "memory that is resident (not zero)", "vmm", resident
            yield "its disk", "vmm", disk
            yield "archive of both", "vmm", size
            yield "of what both take, resident", "vmm", size / (resident + disk)
            yield "export, seconds", "vmm", took
            for name, path in (("its directory", first), ("its archive", first + ".vmm")):
                with peers.Running(restore.Restored(environment.vmm, path), None) as copy:
                    copy.type('echo "went"" on"')
                    yield f"restored from {name}, to the first answer, seconds", "vmm", copy.wait_for("went on")
            shutil.rmtree(first)
            running.type('head -c 1000000 /dev/urandom >/root/new; sync; echo "chan""ged"')
            running.wait_for("changed")
            second = save("second")
            size, took = export(second, "--since", first + ".vmm")
            yield "archive after a change of 1 MB", "vmm", size
    finally:
        shutil.rmtree(directory)
