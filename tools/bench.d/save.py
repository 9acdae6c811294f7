"""Saves of a guest of 1 GiB that holds 256 MiB in its memory and as much on a disk: how long it stands still, how long the whole takes
and what it stores; plain and live with 16 MiB changed, and incremental with 1, 4 and 16 MiB changed, in memory and on the disk alike."""
import os
import shutil
import tempfile

import restore
import snapshots

NATIVE = False
UNIT = "seconds; MiB"
LESS_IS_BETTER = True
HELD = 256
GUEST = f"""mount -o remount,size=600M /tmp
head -c {HELD << 20} /dev/urandom >/tmp/held
dd if=/tmp/held of=/dev/vda bs=1M 2>/dev/null
round=0
echo ready
while read -r size; do
    round=$((round + 1))
    dd if=/dev/urandom of=/tmp/held bs=1M seek=$((round * 20)) count=$size conv=notrunc 2>/dev/null
    dd if=/tmp/held of=/dev/vda bs=1M skip=$((round * 20)) seek=$((round * 20)) count=$size conv=notrunc,fsync 2>/dev/null
    echo changed $round
done"""


def rows(what, answer):
    yield f"{what}: the guest stands still", "vmm", answer["pause_ms"] / 1000
    yield f"{what}: in all", "vmm", answer["total_ms"] / 1000
    yield f"{what}: memory stored, MiB", "vmm", answer["memory_bytes"] / (1 << 20)
    yield f"{what}: disk stored, MiB", "vmm", answer["disk_bytes"] / (1 << 20)


def run(environment):
    disks = tempfile.mkdtemp(prefix="vmm-bench-", dir="/dev/shm")
    try:
        disk = os.path.join(disks, "disk.img")
        with open(disk, "wb") as file:
            file.truncate(HELD << 20)
        with restore.original(environment, memory=1024, words=GUEST, disks=[disk], ready="ready") as (running, save, directory, _):
            changes = iter(range(1, 100))

            def change(size):
                running.type(str(size))
                running.wait_for(f"changed {next(changes)}")
            save("first")
            change(16)
            yield from rows("16 MiB changed, plain", save("plain"))
            shutil.rmtree(os.path.join(directory, "first"))
            change(16)
            yield from rows("16 MiB changed, live", save("base", "--live"))
            shutil.rmtree(os.path.join(directory, "plain"))
            parent = "base"
            for size in (1, 4, 16):
                change(size)
                name = f"after{size}"
                yield from rows(f"{size} MiB changed, incremental", save(name, "--incremental", os.path.join(directory, parent)))
                parent = name
            change(16)
            yield from rows("16 MiB changed, incremental and live",
                            save("last", "--incremental", os.path.join(directory, parent), "--live"))
    finally:
        shutil.rmtree(disks)
    yield from snapshots.saves(environment)
