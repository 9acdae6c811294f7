"""fio in the guest on a raw file in the host's memory."""
import os
import tempfile

import shell

NATIVE = False
UNIT = "requests/s, MiB/s"
LESS_IS_BETTER = False
SECONDS = 4
# row, fio's words, which of its numbers
JOBS = [
    ("4 KiB random read, depth 1", "--rw=randread --bs=4k --iodepth=1", "iops"),
    ("4 KiB random read, depth 32", "--rw=randread --bs=4k --iodepth=32", "iops"),
    ("4 KiB random write, depth 1", "--rw=randwrite --bs=4k --iodepth=1", "iops"),
    ("4 KiB random write, depth 32", "--rw=randwrite --bs=4k --iodepth=32", "iops"),
    ("1 MiB sequential read", "--rw=read --bs=1M --iodepth=4", "bandwidth"),
    ("1 MiB sequential write", "--rw=write --bs=1M --iodepth=4", "bandwidth"),
]


def value_of(output, words, number):
    """From fio's terse output, version 3 (fio(1), "Terse output")."""
    line = next(line for line in output.split("\n") if line.lstrip().startswith("3;fio"))
    fields = line.strip().split(";")
    first = 47 if "write" in words else 6
    return float(fields[first + 1]) if number == "iops" else float(fields[first]) / 1024


def run(environment):
    for peer in environment.peers:
        with tempfile.NamedTemporaryFile(prefix="vmm-bench-", dir="/dev/shm") as data:
            data.write(os.urandom(1 << 20) * 256)
            data.flush()
            with shell.guest(environment, peer, disks=[data.name]) as (_, run_in_guest):
                for row, words, number in JOBS:
                    output = run_in_guest(
                        "fio --name=b --filename=/dev/vdb --direct=1 --ioengine=libaio "
                        f"--time_based --runtime={SECONDS} --output-format=terse "
                        f"--terse-version=3 {words}")
                    yield row, peer.name, value_of(output, words, number)
