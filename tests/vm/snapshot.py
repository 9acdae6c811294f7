"""Snapshots: a machine as a directory, and machines that go on from it."""
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

from harness import Skip, host, test
from harness.architecture import HERE
from harness.vsock import dial

MIB = 1 << 20
# Counts on the console, five times a second.
COUNT = 'i=0; while read -t 0.2 line || true; do i=$((i+1)); echo "count $i"; done'


def counts(text):
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("count ") and line[6:].isdigit()]


def size_of(directory):
    return sum(host.blocks(os.path.join(directory, name)) for name in os.listdir(directory))


def save_and_end(t, machine):
    machine.ctl("snapshot", t.path("saved"), "--stop")
    machine.ends(0)


@test
def goes_on_where_it_was(t):
    """The original runs on, and any number of copies do: no number of a counter is missing or there twice."""
    machine = t.small(run=COUNT)
    machine.console.expect("count 5\n")
    for how in ([], ["--live"]):
        before = len(machine.console.text)
        saved = t.path("saved" + "".join(how))
        answer = machine.ctl("snapshot", saved, *how)
        t.equal(answer["live"], bool(how))
        last = counts(machine.console.text[:before])[-1]
        copies = [t.machine("--restore", saved) for _ in range(2)]
        for copy in copies:
            copy.console.expect(r"count \d+\n(.|\n)*count \d+\n(.|\n)*count \d+\n")
            seen = counts(copy.console.text)
            t.between(seen[0], last + 1, last + 20, "the copy's first number")
            t.equal(seen, list(range(seen[0], seen[0] + len(seen))), "the copy's numbers")
            copy.ctl("stop")
            copy.ends(5)
    machine.console.expect(r"count \d+\n")
    seen = counts(machine.console.text)
    t.equal(seen, list(range(1, len(seen) + 1)), "the original's numbers")


@test
def after_the_original_ended(t):
    machine = t.small()
    machine.run("echo kept >/tmp/file; sysctl -w kernel.hostname=guest >/dev/null; x=variable")
    save_and_end(t, machine)
    copy = t.restore(t.path("saved"))
    t.equal(copy.run("cat /tmp/file; hostname; echo $x").split(), ["kept", "guest", "variable"])
    copy.power_off()


@test
def several_vcpus_under_load(t):
    machine = t.small(cpus=2)
    machine.run('first="$(md5sum </bin/busybox)"; for i in 1 2; do (n=0; while :; do [ "$(md5sum </bin/busybox)" = "$first" ] || echo wrong >>/tmp/wrong; '
                'n=$((n+1)); echo $n >/tmp/rounds.$i; done) & done; sleep 1')
    for i in range(3):
        saved = t.path(f"saved{i}")
        machine.ctl("snapshot", saved, *(["--live"] if i == 1 else []))
        machine.ctl("stop")
        machine.ends(5)
        machine = t.restore(saved)
        # A file is empty for a moment, each time that it is written.
        before = t.eventually(lambda: len(now := machine.run("cat /tmp/rounds.1 /tmp/rounds.2").split()) == 2 and now, 30, "two numbers")
        t.eventually(lambda: len(now := machine.run("cat /tmp/rounds.1 /tmp/rounds.2").split()) == len(before) == 2 and
                     all(int(new) > int(then) for new, then in zip(now, before)), 30, "both vCPUs work on")
    machine.run("[ ! -e /tmp/wrong ]")
    t.equal(machine.run("nproc"), "2")
    machine.power_off()


@test
def eight_vcpus(t):
    """Each of them works on, none of them on another one's registers."""
    machine = t.small(cpus=8, mem="512M")
    # 1<> as > would leave the file empty for most of the time.
    machine.run("for i in 0 1 2 3 4 5 6 7; do (n=0; while :; do n=$((n+1)); [ $((n * 7 / 7)) = $n ] || echo wrong >>/tmp/wrong; "
                "echo $n 1<>/tmp/n.$i; done) & taskset -p $(printf %x $((1 << i))) $! >/dev/null; done; sleep 1")
    machine.ctl("snapshot", t.path("saved"), "--live", "--stop")
    machine.ends(0)
    copy = t.restore(t.path("saved"))
    t.equal(copy.run("nproc"), "8")
    numbers = "cat /tmp/n.0 /tmp/n.1 /tmp/n.2 /tmp/n.3 /tmp/n.4 /tmp/n.5 /tmp/n.6 /tmp/n.7"

    def read():
        return [int(word) for word in copy.run(numbers).split()]

    before = read()
    t.eventually(lambda: len(now := read()) == 8 and all(new > old for new, old in zip(now, before)), 60, "all vCPUs work on")
    copy.run("[ ! -e /tmp/wrong ]; kill $(jobs -p)")
    copy.ctl("stop")
    copy.ends(5)


@test
def verified_writes_through_twenty_moves(t):
    """fio writes with checksums while its machine is saved, ended and gone on from, each time on top of the last."""
    machine = t.shell("--disk", t.file("disk.img", size=32 * MIB))
    machine.run("cd /tmp; (fio --name=v --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bsrange=4k-64k --size=24M "
                "--verify=crc32c --verify_fatal=1 --do_verify=1 --loops=1000000 --verify_backlog=64 --eta=never >/tmp/fio.log 2>&1; "
                "echo $? >/tmp/fio.code) & true")
    parent = None
    for i in range(20):
        saved = t.path(f"saved{i}")
        machine.ctl("snapshot", saved, "--stop", *(["--live"] if i % 3 == 1 else []), *(["--incremental", parent] if parent else []))
        machine.ends(0)
        machine = t.restore(saved)
        # The chain is cut now and then, as each restore reads all of it.
        parent = saved if i % 5 != 4 else None
        written = machine.metrics("blk1")["bytes_written"]
        t.eventually(lambda: machine.metrics("blk1")["bytes_written"] > written, 30, "fio writes on")
        if parent is None:
            for old in range(i):
                shutil.rmtree(t.path(f"saved{old}"), ignore_errors=True)
    machine.run("pkill -INT -x fio; for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /tmp/fio.code ] && break; sleep 1; done")
    t.equal(machine.run("grep -c 'verify: bad' /tmp/fio.log || true"), "0", "what fio found")
    t.contains(machine.run("grep -i 'err=' /tmp/fio.log"), "err= 0")
    machine.power_off()


@test
def disks_are_of_that_moment(t):
    disk = t.file("disk.img", size=64 * MIB)
    shared = t.file("shared.img", b"shared".ljust(4096, b"\0") * 16)
    machine = t.small("--disk", f"{disk},serial=WRITTEN", "--disk", f"{shared},ro")
    machine.run("mke2fs -q /dev/vda 2>/dev/null || mkfs.ext2 /dev/vda >/dev/null; mkdir -p /mnt/d; mount /dev/vda /mnt/d; "
                "echo before >/mnt/d/file; head -c 8000000 /dev/urandom >/mnt/d/data; md5sum /mnt/d/data >/mnt/d/sum; sync")
    machine.ctl("snapshot", t.path("saved"))
    # The original writes on, to its own file; the copies write to layers of their own.
    machine.run("echo original >/mnt/d/file; head -c 8000000 /dev/urandom >/mnt/d/data; sync")
    copies = [t.restore(t.path("saved")) for _ in range(2)]
    for i, copy in enumerate(copies):
        t.equal(copy.run("cat /mnt/d/file"), "before")
        copy.run("cd /mnt/d && md5sum -c sum >/dev/null")
        copy.run(f"echo copy{i} >/mnt/d/file; sync; echo 3 >/proc/sys/vm/drop_caches")
        t.equal(copy.run("cat /sys/block/vda/serial; head -c 6 /dev/vdb"), "WRITTENshared")
    for i, copy in enumerate(copies):
        t.equal(copy.run("cat /mnt/d/file"), f"copy{i}")
        copy.power_off()
    machine.run("echo 3 >/proc/sys/vm/drop_caches")
    t.equal(machine.run("cat /mnt/d/file"), "original")
    machine.power_off()


@test
def writes_go_on_through_saves(t):
    """What is written while saves go on is in the file of the original, and consistent in each copy."""
    disk = t.file("disk.img", size=64 * MIB)
    machine = t.small("--disk", disk)
    machine.run("(mke2fs -q /dev/vda || mkfs.ext2 /dev/vda) >/dev/null 2>&1; mkdir -p /mnt/d; mount /dev/vda /mnt/d")
    machine.run("cd /mnt/d; (i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); head -c 300000 /dev/urandom >new; md5sum <new >new.sum; "
                "mv new data.$((i % 4)); mv new.sum sum.$((i % 4)); sync; done) >/dev/null 2>&1 & true")
    t.eventually(lambda: int(machine.run("ls /mnt/d 2>/dev/null | grep -c data || true")) >= 2, 60, "two pairs")
    for i in range(3):
        machine.ctl("snapshot", t.path(f"saved{i}"), "--live")
    machine.run("touch /tmp/stop; wait; cd /; umount /mnt/d")
    machine.power_off()
    for i in range(3):
        copy = t.restore(t.path(f"saved{i}"))
        copy.run("touch /tmp/stop; sleep 1; sync; echo 3 >/proc/sys/vm/drop_caches; cd /mnt/d; "
                 "ls data.* | wc -l >/tmp/pairs; for k in 0 1 2 3; do [ ! -e data.$k ] || [ \"$(md5sum <data.$k)\" = \"$(cat sum.$k)\" ] || echo torn $k; done >/tmp/result", timeout=120)
        t.between(int(copy.run("cat /tmp/pairs")), 2, 4, "pairs that were compared")
        torn = copy.run("wc -l </tmp/result")
        # One pair may be between its two renames.
        t.between(int(torn), 0, 1, "pairs that do not fit")
        t.equal(copy.run("dmesg | grep -ci 'i/o error\\|ext2-fs error\\|ext4-fs error' || true"), "0", "errors")
        copy.power_off()
    t.equal(subprocess.run(["e2fsck", "-fn", disk], capture_output=True).returncode, 0, "fsck of the original's disk")


def clock_error(machine):
    """The guest's clock less the host's, in seconds; what the console takes counts half."""
    before = time.time()
    guest = int(machine.run("date +%s")) + 0.5
    return guest - (before + time.time()) / 2


def expect_the_same_error(t, machine, before):
    """A guest sets its clock once, by a clock of whole seconds: it is as wrong as it was, not by what passed since."""
    t.between(clock_error(machine) - before, -2, 2, "what the guest's clock lost or won")


@test
def clock_is_now(t):
    machine = t.small()
    before = clock_error(machine)
    save_and_end(t, machine)
    time.sleep(4)
    copy = t.restore(t.path("saved"))
    expect_the_same_error(t, copy, before)
    copy.power_off()


@test
def clock_an_hour_later(t):
    if not host.is_emulated():
        raise Skip("sets the host's clock, which only the emulated host can bear")
    machine = t.small(cpus=2)
    before = clock_error(machine)
    save_and_end(t, machine)
    time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600)
    try:
        copy = t.restore(t.path("saved"))
        expect_the_same_error(t, copy, before)
        copy.run("sleep 1")
        if HERE == "x86_64":    # kvmclock tells of a pause; an aarch64 guest cannot be told, and may complain (README, Limits)
            t.equal(copy.run("dmesg | grep -c 'lockup\\|stall' || true"), "0", "complaints of watchdogs")
        copy.power_off()
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - 3600)


@test
def random_numbers_differ(t):
    machine = t.small()
    machine.run("head -c 16 /dev/urandom >/dev/null")
    save_and_end(t, machine)
    seen = set()
    for _ in range(3):
        copy = t.restore(t.path("saved"))
        seen.add(copy.run("sleep 0.2; head -c 16 /dev/urandom | od -An -tx1"))
        copy.power_off()
    t.equal(len(seen), 3, "different numbers of three copies")


def changed_since(t, machine, directory, parent, *how):
    """An incremental snapshot's answer; skips where the host cannot track pages."""
    answer = subprocess.run([t.images.vmm, "ctl", machine.control, "snapshot", directory, "--incremental", parent, *how],
                            text=True, capture_output=True)
    if "CONFIG_MEM_SOFT_DIRTY" in answer.stderr or "what changed since is not known" in answer.stderr:
        raise Skip(f"the host's kernel does not track: {answer.stderr.strip()}")
    t.equal(answer.returncode, 0, answer.stderr)
    return json.loads(answer.stdout)


@test
def incremental(t):
    machine = t.small("--balloon")
    machine.run("head -c 20000000 /dev/urandom >/tmp/data; md5sum </tmp/data >/tmp/sum; echo 0 >/tmp/step")
    machine.ctl("snapshot", t.path("base"))
    text = machine.ctl("snapshot", t.path("other"), "--incremental", t.path("missing"), code=1)
    t.contains(text, "missing")
    parent = "base"
    for i in (1, 2, 3):
        machine.run(f"echo {i} >/tmp/step" + ("; rm /tmp/data" if i == 3 else ""))
        answer = changed_since(t, machine, t.path(f"step{i}"), t.path(parent), *(["--live"] if i == 2 else []))
        t.equal(answer["incremental"], True)
        parent = f"step{i}"
    t.true(size_of(t.path("step2")) * 4 < size_of(t.path("base")), "an incremental snapshot is small")
    text = machine.ctl("snapshot", t.path("wrong"), "--incremental", t.path("base"), code=1)
    t.contains(text, "is not the last snapshot")
    for i in (1, 2, 3):
        copy = t.restore(t.path(f"step{i}"))
        t.equal(copy.run("cat /tmp/step"), str(i))
        if i < 3:
            t.equal(copy.run("md5sum </tmp/data"), copy.run("cat /tmp/sum"))
        if i == 2:
            # A copy's own changes, on top of what it was made from.
            copy.run("echo mine >/tmp/step")
            copy.ctl("snapshot", t.path("mine"), "--incremental", t.path("step2"))
            again = t.restore(t.path("mine"))
            t.equal(again.run("cat /tmp/step"), "mine")
            t.equal(again.run("md5sum </tmp/data"), again.run("cat /tmp/sum"))
            again.power_off()
        copy.power_off()
    machine.power_off()


@test
def incremental_through_a_symbolic_link(t):
    """Parents and the files behind a disk are found by real paths: the machine ends with its last save."""
    os.makedirs(t.path("real/deep"))
    os.symlink("real/deep", t.path("link"))
    machine = t.small("--disk", t.file("disk.img", size=4 * MIB))
    machine.ctl("snapshot", t.path("base"))
    machine.run("echo one >/tmp/step; echo one >/dev/vda; sync")
    changed_since(t, machine, t.path("link/one"), t.path("base"))
    machine.run("echo two >/tmp/step; echo two >/dev/vda; sync")
    changed_since(t, machine, t.path("link/../two"), t.path("link/one"), "--stop")
    machine.ends(0)
    t.true(os.path.isdir(t.path("real/two")), "beside what the link leads to")
    copy = t.restore(t.path("real/two"))
    t.equal(copy.run("cat /tmp/step; head -c 3 /dev/vda"), "two\ntwo")
    copy.power_off()


@test
def incremental_disks(t):
    """Each snapshot has what was written to the disk since its parent, and is restored without the original."""
    disk = t.file("disk.img", size=64 * MIB)
    machine = t.small("--disk", disk)
    machine.run("head -c 40000000 /dev/urandom >/tmp/f; dd if=/tmp/f of=/dev/vda bs=1M 2>/dev/null; rm /tmp/f; sync", timeout=120)
    sums = [machine.run("md5sum </dev/vda")]
    machine.ctl("snapshot", t.path("step0"))
    for i, how in ((1, []), (2, ["--live"]), (3, [])):
        machine.run(f"head -c 100000 /dev/urandom | dd of=/dev/vda bs=1000 seek={i * 7000} conv=notrunc 2>/dev/null; sync")
        if i == 3:
            machine.run("dd if=/dev/zero of=/dev/vda bs=1M seek=20 count=2 conv=notrunc 2>/dev/null; sync")
        sums.append(machine.run("md5sum </dev/vda"))
        answer = changed_since(t, machine, t.path(f"step{i}"), t.path(f"step{i - 1}"), *how)
        t.between(answer["disk_bytes"], 100000, 2 * MIB, "what the disk's layer takes")
        t.equal(sorted(name for name in os.listdir(t.path(f"step{i}")) if name.startswith("blk")), ["blk0.qcow2"])
    machine.power_off()
    os.unlink(disk)
    copy = t.restore(t.path("step2"))
    t.equal(copy.run("md5sum </dev/vda"), sums[2])
    copy.run("echo changed | dd of=/dev/vda bs=512 seek=5 conv=notrunc 2>/dev/null; sync")
    sums.append(copy.run("md5sum </dev/vda"))
    changed_since(t, copy, t.path("mine"), t.path("step2"), "--stop")
    copy.ends(0)
    vmm = t.images.vmm
    host.run(vmm, "snapshot", "merge", t.path("mine"), t.path("merged"))
    host.run(vmm, "snapshot", "export", t.path("mine"), t.path("mine.vmm"))
    for name, wanted in (("step0", 0), ("step1", 1), ("step3", 3), ("mine", 4), ("merged", 4), ("mine.vmm", 4)):
        copy = t.restore(t.path(name))
        t.equal(copy.run("md5sum </dev/vda"), sums[wanted], f"the disk of {name}")
        copy.power_off()
    host.run(vmm, "snapshot", "verify", t.path("mine"))
    for name in ("mine", "step3", "step2", "step1", "step0"):
        host.run(vmm, "snapshot", "rm", t.path(name))


@test
def balloon_and_freed_memory(t):
    machine = t.small("--balloon", mem="512M")
    machine.run("head -c 20000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum")
    machine.ctl("balloon", "256M")
    t.eventually(lambda: machine.metrics("balloon")["actual_bytes"] == 256 * MIB, 60, "256 MiB in the balloon")
    save_and_end(t, machine)
    copy = t.restore(t.path("saved"))
    t.equal(copy.metrics("balloon")["actual_bytes"], 256 * MIB)
    t.equal(copy.run("md5sum </tmp/f"), copy.run("cat /tmp/sum"))
    copy.run("cp /tmp/f /tmp/g; rm /tmp/f")
    copy.ctl("balloon", "0")
    t.eventually(lambda: copy.metrics("balloon")["actual_bytes"] == 0, 60, "an empty balloon")
    copy.run("mount -o remount,size=400M /tmp; head -c 200000000 /dev/zero >/tmp/h", timeout=120)
    t.equal(copy.run("md5sum </tmp/g"), copy.run("cat /tmp/sum"))
    copy.power_off()


@test
def paused(t):
    machine = t.small(run=COUNT)
    machine.console.expect("count 3\n")
    machine.ctl("pause")
    machine.ctl("snapshot", t.path("saved"))
    t.equal(machine.ctl("status")["state"], "paused", "a paused machine stays so")
    copy = t.machine("--restore", t.path("saved"), "--paused")
    t.eventually(lambda: os.path.exists(copy.control), 20, "the control socket")
    t.eventually(lambda: copy.ctl("status")["state"] == "paused", 20, "a paused copy")
    t.true(copy.console.silent(1), "a paused copy prints nothing")
    copy.ctl("resume")
    copy.console.expect(r"count \d+\n")
    copy.ctl("stop")
    machine.ctl("stop")
    copy.ends(5), machine.ends(5)


@test
def users_network(t):
    machine = t.small("--net", "user")
    machine.run("ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2")
    machine.run("ping -c 1 -W 5 10.0.2.2")
    machine.ctl("snapshot", t.path("saved"), "--live")
    machine.run("ping -c 1 -W 5 10.0.2.2")
    copies = [t.restore(t.path("saved")) for _ in range(2)]
    for copy in copies:
        copy.run("ping -c 1 -W 5 10.0.2.2")
        copy.power_off()
    text = subprocess.run([t.images.vmm, "--restore", t.path("saved"), "--net", "user", "--net", "user"],
                          text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(text.returncode, 1)
    t.contains(text.stderr, "network cards")
    machine.power_off()


@test
def new_address_after_the_driver_looks_again(t):
    machine = t.small("--net", "user")
    before = machine.run("cat /sys/class/net/eth0/address")
    machine.ctl("snapshot", t.path("saved"))
    copy = t.restore(t.path("saved"))
    copy.run("cd /sys/bus/virtio/drivers/virtio_net; d=$(basename $(readlink /sys/class/net/eth0/device)); echo $d >unbind; echo $d >bind; sleep 0.2")
    after = copy.run("cat /sys/class/net/eth0/address")
    t.true(after != before, f"{after} is the address of the original")
    t.equal(after, copy.ctl("status")["nets"][0]["mac"])
    copy.power_off()
    machine.power_off()


@test
def tap_with_vhost(t):
    with host.Bridge("vmmbr0", ["vmmtap0", "vmmtap1"], address="10.9.0.254/24"):
        machine = t.small("--net", "tap=vmmtap0")
        machine.run("ip link set eth0 up; ip address add 10.9.0.1/24 dev eth0")
        machine.run("ping -c 1 -W 5 10.9.0.254")
        machine.ctl("snapshot", t.path("saved"))
        machine.run("ping -c 1 -W 5 10.9.0.254")
        machine.power_off()
        copy = t.restore(t.path("saved"), "--net", "tap=vmmtap1")
        copy.run("ping -c 2 -W 5 10.9.0.254")
        copy.power_off()
        # Without the option nothing is attached to, as the tap is there again.
        copy = t.restore(t.path("saved"))
        t.equal(copy.errors(), "vmm: not connected, as only the snapshot names it: net0 to tap=vmmtap0 (--net)\n")
        t.equal(copy.run("cat /sys/class/net/eth0/carrier"), "0", "the link of a card that is not connected")
        t.equal(copy.metrics("net0")["link_up"], False)
        copy.power_off()
        result = subprocess.run([t.images.vmm, "--restore", t.path("saved"), "--net", "user", "--dry-run"], text=True, capture_output=True,
                                stdin=subprocess.DEVNULL)
        t.equal(result.returncode, 1, result.stderr)
        t.contains(result.stderr, "a network of another kind")


@test
def vsock_connections(t):
    """Those of the original last, those of a copy are reset, and new ones work."""
    path = t.path("vsock")
    machine = t.shell("--vsock", f"{path},cid=42")
    machine.run("socat VSOCK-LISTEN:1234,fork,reuseaddr EXEC:cat >/tmp/log 2>&1 & true")
    client = dial(t, path, 1234)
    client.sendall(b"before")
    t.equal(client.recv(6), b"before")
    machine.ctl("snapshot", t.path("saved"), "--live")
    client.sendall(b"after")
    t.equal(client.recv(5), b"after")
    t.equal(machine.run("pgrep -c -x cat"), "1", "open connections of the original")
    copy = t.restore(t.path("saved"), "--vsock", t.path("vsock2") + ",cid=42")
    t.eventually(lambda: copy.run("pgrep -c -x cat", code=None) == "0", 20, "the copy's connection is reset")
    second = dial(t, t.path("vsock2"), 1234)
    second.sendall(b"copy")
    t.equal(second.recv(4), b"copy")
    second.close(), client.close()
    copy.ctl("stop"), machine.ctl("stop")
    copy.ends(5), machine.ends(5)


@test
def moved_as_one_file(t):
    """Exported, imported elsewhere, and gone on from; a second archive holds what changed since the first."""
    disk = t.file("disk.img", size=32 * MIB)
    machine = t.small("--disk", disk)
    machine.run("head -c 4000000 /dev/urandom >/tmp/f; dd if=/tmp/f of=/dev/vda bs=4k 2>/dev/null; sync; md5sum </tmp/f >/tmp/sum; echo 1 >/tmp/step")
    machine.ctl("snapshot", t.path("first"))
    machine.run("echo 2 >/tmp/step")
    machine.ctl("snapshot", t.path("second"), "--stop")
    machine.ends(0)
    vmm = t.images.vmm
    host.run(vmm, "snapshot", "export", t.path("first"), t.path("first.vmm"))
    host.run(vmm, "snapshot", "export", t.path("first"), t.path("again.vmm"))
    with open(t.path("first.vmm"), "rb") as one, open(t.path("again.vmm"), "rb") as other:
        t.true(one.read() == other.read(), "two exports of one snapshot are the same")
    host.run(vmm, "snapshot", "export", t.path("second"), t.path("second.vmm"), "--since", t.path("first.vmm"))
    first, second = os.path.getsize(t.path("first.vmm")), os.path.getsize(t.path("second.vmm"))
    t.true(first * 3 < size_of(t.path("first")), f"{first} bytes for {size_of(t.path('first'))}: the random ones are there twice, and stored once")
    t.true(second * 3 < first, f"{second} bytes behind {first}")
    for name in ("first", "second"):
        shutil.rmtree(t.path(name))
    os.unlink(disk)
    host.run(vmm, "snapshot", "import", t.path("first.vmm"), t.path("first"))
    host.run(vmm, "snapshot", "import", t.path("second.vmm"), t.path("second"), "--base", t.path("first.vmm"))
    for name, step in (("first", "1"), ("second", "2")):
        host.run(vmm, "snapshot", "verify", t.path(name))
        copy = t.restore(t.path(name))
        t.equal(copy.run("cat /tmp/step"), step)
        t.equal(copy.run("head -c 4000000 /dev/vda | md5sum; md5sum </tmp/f"), copy.run("cat /tmp/sum; cat /tmp/sum"))
        copy.power_off()


def export(t, name="saved"):
    """The snapshot as an archive, the only thing left of it."""
    archive = t.path(f"{name}.vmm")
    host.run(t.images.vmm, "snapshot", "export", t.path(name), archive)
    shutil.rmtree(t.path(name))
    return archive


@test
def run_from_an_archive(t):
    """Restored from an exported file as it is, twice; and saved again before all of it was touched."""
    disk = t.file("disk.img", size=32 * MIB)
    shared = t.file("shared.img", b"shared".ljust(4096, b"\0") * 16)
    machine = t.small("--disk", f"{disk},serial=WRITTEN", "--disk", f"{shared},ro")
    machine.run("head -c 20000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum; dd if=/tmp/f of=/dev/vda bs=1M count=4 2>/dev/null; sync; "
                "echo kept >/tmp/file; x=variable; echo 3 >/proc/sys/vm/drop_caches")
    save_and_end(t, machine)
    archive = export(t)
    os.unlink(disk), os.unlink(shared)

    def is_right(copy):
        t.equal(copy.run("cat /tmp/file; echo $x").split(), ["kept", "variable"])
        t.equal(copy.run("cat /sys/block/vda/serial; head -c 6 /dev/vdb"), "WRITTENshared")
        t.equal(copy.run("md5sum </tmp/f"), copy.run("cat /tmp/sum"))
        t.equal(copy.run("dd if=/dev/vda bs=1M count=4 2>/dev/null | md5sum"), copy.run("dd if=/tmp/f bs=1M count=4 2>/dev/null | md5sum"))

    copies = [t.restore(archive) for _ in range(2)]
    t.equal(copies[0].ctl("status")["disks"][0]["path"], f"{archive}:blk0")
    # While most of it is still packed.
    copies[0].ctl("snapshot", t.path("live"), "--live")
    copies[1].ctl("snapshot", t.path("again"))
    for i, copy in enumerate(copies):
        is_right(copy)
        copy.run(f"echo copy{i} >/tmp/g; dd if=/tmp/g of=/dev/vda conv=notrunc 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches")
    for i, copy in enumerate(copies):
        t.equal(copy.run("head -c 5 /dev/vda"), f"copy{i}")
        copy.power_off()
    for saved in ("live", "again"):
        copy = t.restore(t.path(saved))
        is_right(copy)
        copy.power_off()
    copy = t.machine("--restore", archive, "--paused")
    t.eventually(lambda: os.path.exists(copy.control), 60, "the control socket")
    t.eventually(lambda: copy.ctl("status")["state"] == "paused", 60, "a paused copy")
    t.true(copy.console.silent(1), "a paused copy prints nothing")
    copy.ctl("resume")
    is_right(copy)
    copy.power_off()


@test
def archive_and_freed_memory(t):
    """What a guest gives back before it was unpacked is zero when it comes again, and what it kept is right."""
    machine = t.small("--balloon", cpus=2)
    machine.run("head -c 40000000 /dev/urandom >/tmp/f; cp /tmp/f /tmp/g; head -c 20000000 /tmp/g >/tmp/h; md5sum </tmp/h >/tmp/sum")
    save_and_end(t, machine)
    copy = t.restore(export(t))
    copy.run("rm /tmp/f /tmp/g")
    copy.ctl("balloon", "128M")
    t.eventually(lambda: copy.metrics("balloon")["actual_bytes"] == 128 * MIB, 60, "128 MiB in the balloon")
    t.equal(copy.run("md5sum </tmp/h"), copy.run("cat /tmp/sum"))
    copy.ctl("balloon", "0")
    t.eventually(lambda: copy.metrics("balloon")["actual_bytes"] == 0, 60, "an empty balloon")
    copy.run("head -c 60000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum.f; md5sum </tmp/f | cmp - /tmp/sum.f", timeout=120)
    t.equal(copy.run("md5sum </tmp/h"), copy.run("cat /tmp/sum"))
    copy.power_off()


@test
def damaged_archive(t):
    """Refused before the start where it can be told; a frame that is needed later ends the machine, with no wrong byte."""
    machine = t.small(run=COUNT)
    machine.console.expect("count 3\n")
    save_and_end(t, machine)
    archive = export(t)
    with open(archive, "rb") as file:
        whole = file.read()
    # The seek table's sizes: header, frames of pages (states first), index, digest.
    footer = len(whole) - 9
    count = int.from_bytes(whole[footer:footer + 4], "little")
    sizes = [int.from_bytes(whole[at:at + 4], "little") for at in range(footer - 8 * count, footer, 8)]
    middle = [sum(sizes[:i]) + size // 2 for i, size in enumerate(sizes)]

    def damaged(name, content):
        with open(t.path(name), "wb") as file:
            file.write(content)
        return t.path(name)

    def altered(places):
        content = bytearray(whole)
        for at in places:
            content[at] ^= 0x55
        return content

    for name, content, words in (("short.vmm", whole[:-1000], "it was cut off or altered"),
                                 ("begin.vmm", whole[:60], "it is cut off in its header"),
                                 ("version.vmm", whole.replace(b'"version":1', b'"version":9', 1), "version 9"),
                                 ("none.vmm", b"nothing of it", "it is not an exported snapshot"),
                                 ("states.vmm", altered(middle[1:2]), "a frame at"),
                                 ("index.vmm", altered(middle[-2:-1]), "a frame at")):
        result = subprocess.run([t.images.vmm, "--restore", damaged(name, content)], text=True, capture_output=True,
                                stdin=subprocess.DEVNULL, timeout=60)
        t.equal(result.returncode, 1, result.stderr)
        t.equal(len(result.stderr.strip().splitlines()), 1, result.stderr)
        t.contains(result.stderr, name)
        t.contains(result.stderr, words)
    copy = t.machine("--restore", damaged("memory.vmm", altered(middle[2:-2])))
    # 1: a host without userfaultfd, which reads all before the start.
    t.true(copy.wait() in (1, 4), copy.describe())
    t.equal(len(copy.errors().strip().splitlines()), 1, copy.errors())
    t.contains(copy.errors(), "memory.vmm': a frame at")
    # The counter has not gone on with what was wrong.
    seen = counts(copy.console.text)
    t.equal(seen, list(range(seen[0], seen[0] + len(seen))) if seen else [], "the copy's numbers")


@test
def merged(t):
    machine = t.small()
    machine.run("echo 1 >/tmp/step")
    machine.ctl("snapshot", t.path("base"), "--stop")
    machine.ends(0)
    copy = t.restore(t.path("base"))
    copy.run("echo 2 >/tmp/step")
    copy.ctl("snapshot", t.path("next"), "--incremental", t.path("base"), "--stop")
    copy.ends(0)
    vmm = t.images.vmm
    text = subprocess.run([vmm, "snapshot", "rm", t.path("base")], text=True, capture_output=True)
    t.equal(text.returncode, 1)
    t.contains(text.stderr, "next")
    host.run(vmm, "snapshot", "merge", t.path("next"), t.path("whole"))
    host.run(vmm, "snapshot", "rm", t.path("next"))
    host.run(vmm, "snapshot", "rm", t.path("base"))
    copy = t.restore(t.path("whole"))
    t.equal(copy.run("cat /tmp/step"), "2")
    copy.power_off()


@test
def forks(t):
    """Copies that stay, each with a control socket and a console of its own."""
    machine = t.small(run=COUNT)
    machine.console.expect("count 3\n")
    copies = machine.ctl("fork", t.path("forked"), "-n", "3")
    try:
        t.equal(len(copies), 3)
        for copy in copies:
            console = copy["console"]
            t.eventually(lambda: len(counts(open(console).read())) > 3, 30, f"numbers in {console}")
            seen = counts(open(console).read())
            t.equal(seen, list(range(seen[0], seen[0] + len(seen))), "the copy's numbers")
        t.contains(machine.ctl("fork", t.path("forked"), code=1), "exists")
        t.contains(machine.ctl("fork", t.path("other"), "-n", "0", code=1), "0")
    finally:
        for copy in copies:
            subprocess.run([t.images.vmm, "ctl", copy["control"], "stop"], check=True)
    t.eventually(lambda: len(host.machine_processes()) == 1, 20, "the end of the copies")
    machine.ctl("stop")
    machine.ends(5)


@test
def copies_beside_what_the_original_holds(t):
    """Its port, tap and vsock path are the original's; keys of its networks, in whatever order, go through every copy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with host.Bridge("vmmbr0", ["vmmtap0"]):
        machine = t.small("--net", f"user,restrict=on,hostfwd=tcp::{port}-:80", "--net", "tap=vmmtap0,mac=52:54:00:12:34:56",
                          "--vsock", t.path("vsock"))
        machine.run("ip link set eth0 up; ip link set eth1 up")
        copies = machine.ctl("fork", t.path("forked"), "-n", "2")
        for copy in copies:
            subprocess.run([t.images.vmm, "ctl", copy["control"], "stop"], check=True)
        with open(t.path("forked/manifest.json")) as manifest:
            manifest = json.load(manifest)
        t.equal(manifest["config"]["net"], [{"user": True, "restrict": True}, {}], "what the guest sees")
        was = manifest["attachments"]
        t.equal((was["net"][0]["hostfwd"], was["net"][1], was["vsock"]), (
            [f"tcp:127.0.0.1:{port}-:80"], {"tap": "vmmtap0", "mac": "52:54:00:12:34:56"}, {"path": t.path("vsock")}), "what it was connected to")
        said = machine.ctl("fork", t.path("bad"), "-n", "2", "--net", "user,hostfwd=tcp::9999{n}-:80", "--net", "unplugged", code=1)
        t.contains(said, "99991")
        t.true(not os.path.exists(t.path("bad")), "nothing is saved with words that no copy takes")
        base = port // 10 % 1000 + 1000     # of four digits, to which the copy's is added
        copies = machine.ctl("fork", t.path("ported"), "-n", "2", "--net", f"user,restrict=on,hostfwd=tcp::{base}{{n}}-:80", "--net", "unplugged")
        for number, copy in enumerate(copies, 1):
            with socket.socket() as taken:
                t.true(taken.connect_ex(("127.0.0.1", base * 10 + number)) == 0, f"the port of copy {number}")
            subprocess.run([t.images.vmm, "ctl", copy["control"], "stop"], check=True)
        copy = t.restore(t.path("forked"))
        t.contains(copy.errors(), "published ports and host loopback of net0 (--net), net1 to tap=vmmtap0 (--net), vsock to")
        copy.ctl("snapshot", t.path("again"))
        again = t.restore(t.path("again"))
        t.equal(again.errors(), "", "nothing of the host is named in it")
        t.equal(again.run("cat /sys/class/net/eth0/carrier /sys/class/net/eth1/carrier"), "1\n0", "links")
        for ended in (again, copy, machine):
            ended.power_off()


@test
def resumed_as_the_same_machine(t):
    """With its address, ports, vsock path, console and disk, on which it goes on; beside itself it is refused by name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    disk, image, saved = t.file("disk.img", b"first", size=1 << 20), t.path("disk.qcow2"), t.path("saved")
    host.run(t.images.vmm, "disk", "create", image, "64M")
    machine = t.small("--disk", disk, "--disk", image, "--net", f"user,hostfwd=tcp::{port}-:80", "--vsock", t.path("vsock"))
    mac = machine.ctl("status")["nets"][0]["mac"]
    machine.run("head -c 3000000 /dev/urandom | tee /tmp/written >/dev/vdb")
    machine.ctl("snapshot", t.path("live"))
    result = subprocess.run([t.images.vmm, "--resume", t.path("live"), "--control", t.path("c"), "--serial", "none"], text=True,
                            capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(result.returncode, 1, result.stderr)
    for held in (f"'{disk}'", f"'{image}'", f"'{t.path('vsock')}'", f"port {port} of 127.0.0.1: it is taken"):
        t.contains(result.stderr, held)     # all in one message
    t.equal(result.stderr.count("\n"), 1, result.stderr)
    machine.ctl("snapshot", saved, "--stop")
    machine.ends(0)
    again = t.resume(saved)
    t.equal(again.errors(), "")
    t.equal(again.ctl("status")["nets"][0]["mac"], mac, "its address")
    t.equal(again.ctl("status")["kernel"], t.images.kernel, "its kernel, though the file is the snapshot's")
    t.true(os.path.exists(t.path("vsock")), "its vsock socket")
    again.run("head -c 3000000 /dev/vdb | cmp - /tmp/written; echo -n later >/dev/vda; sync")
    again.console.send("reboot -f\n")
    again.console.expect("vmm-guest: init up")
    t.equal(again.run("head -c 5 /dev/vda"), "later", "after a reboot with its own kernel")
    again.power_off()
    with open(disk, "rb") as file:
        t.equal(file.read(5), b"later", "its disk")
    result = subprocess.run([t.images.vmm, "--resume", saved], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(result.returncode, 1, result.stderr)
    t.contains(result.stderr, f"disk '{disk}' has changed since snapshot '{saved}' was saved")


@test
def working_set(t):
    machine = t.small()
    saved = t.path("saved")
    t.contains(machine.ctl("working-set", code=1), "was not restored from a snapshot's directory")
    machine.ctl("snapshot", saved, "--stop")
    machine.ends(0)
    copy = t.restore(saved)
    t.eventually(lambda: os.path.exists(f"{saved}/working-set"), 20, "what the first restore touched")
    os.remove(f"{saved}/working-set")
    copy.ctl("working-set")
    t.true(os.path.exists(f"{saved}/working-set"), "noted when it was asked for")
    copy.power_off()
    t.restore(saved).power_off()
    with open(f"{saved}/working-set", "r+b") as file:
        file.seek(20)
        file.write(b"nonsense")
    t.restore(saved).power_off()
    host.run(t.images.vmm, "snapshot", "rm", saved)
    t.true(not os.path.exists(saved), "the working set goes with its snapshot")


@test
def kill_in_the_middle_of_a_save(t):
    """Either it is there and whole, or it is not there; and the next one of that name works."""
    disk = t.file("disk.img", size=32 * MIB)
    saved, partial = t.path("saved"), t.path("saved.partial")
    for i in range(4):
        machine = t.small("--disk", disk)
        machine.run("head -c 30000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum; dd if=/tmp/f of=/dev/vda bs=1M 2>/dev/null; sync", timeout=120)
        save = subprocess.Popen([t.images.vmm, "ctl", machine.control, "snapshot", saved, *(["--live"] if i % 2 else [])],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # When it was begun, or is done.
        t.eventually(lambda: os.path.exists(saved) or i < 2 and os.path.exists(partial), 60, "a save", every=0.001)
        machine.process.send_signal(signal.SIGKILL)
        save.wait(60)
        machine.wait()
        if i < 2:
            t.true(not os.path.exists(saved), "it was killed while the save went on")
        else:
            host.run(t.images.vmm, "snapshot", "verify", saved)
            copy = t.restore(saved)
            copy.run("md5sum </tmp/f | cmp - /tmp/sum")
            copy.power_off()
            shutil.rmtree(saved)
    machine = t.small()
    machine.ctl("snapshot", saved)
    t.true(not os.path.exists(partial), "nothing is left")
    host.run(t.images.vmm, "snapshot", "verify", saved)
    machine.power_off()
    t.eventually(lambda: not host.machine_processes(), 10, "no process is left")


@test
def kill_in_the_middle_of_a_fork(t):
    """The snapshot is whole, as the machine goes on with it, and no copy outlives what was asked for unseen."""
    forked, copies = t.path("forked"), t.path("forked.forks")
    # How far it is: the save was begun, it was published, the first copy was started.
    for begun in ([f"{forked}.partial", forked], [forked], [f"{copies}/1.log"]):
        machine = t.small()
        machine.run("head -c 20000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum")
        fork = subprocess.Popen([t.images.vmm, "ctl", machine.control, "fork", forked, "-n", "2"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        t.eventually(lambda: any(os.path.exists(path) for path in begun), 60, f"one of {begun}", every=0.001)
        fork.kill()
        t.equal(fork.wait(60), -signal.SIGKILL, f"the fork's end, with {begun} there")
        # The original goes on in any case. What was forked does, too, as each copy is a machine of its own, which is found where
        # forks are.
        machine.run("true")

        def only_the_original():
            for name in os.listdir(copies):
                if name.endswith(".control"):
                    subprocess.run([t.images.vmm, "ctl", os.path.join(copies, name), "stop"], capture_output=True)
            return set(host.machine_processes()) == {machine.pid}
        t.eventually(only_the_original, 60, "the end of the copies")
        machine.power_off()
        host.run(t.images.vmm, "snapshot", "verify", forked)
        copy = t.restore(forked)
        copy.run("md5sum </tmp/f | cmp - /tmp/sum")
        copy.power_off()
        shutil.rmtree(forked), shutil.rmtree(copies)


@test
def no_thread_or_process_to_be_had(t):
    """A save that cannot start one is an error, and the machine goes on; later it can be saved."""
    root, group = "/sys/fs/cgroup", f"/sys/fs/cgroup/vmm-test-{os.getpid()}"
    try:
        with open(f"{root}/cgroup.subtree_control", "w") as control:
            control.write("+pids")
        os.mkdir(group)
    except OSError as error:
        raise Skip(f"no cgroup with a limit of processes: {error}") from None
    machine = t.small(run=COUNT)
    machine.console.expect("count 3\n")

    def write(name, value):
        with open(f"{group}/{name}", "w") as file:
            file.write(str(value))

    try:
        write("cgroup.procs", machine.pid)
        with open(f"{group}/pids.current") as current:
            write("pids.max", current.read())
        for how, words in ([], "cannot start thread 'snapshot'"), (["--live"], "cannot fork"):
            before = len(machine.console.text)
            t.contains(machine.ctl("snapshot", t.path("saved"), *how, code=1), words)
            t.true(not os.path.exists(t.path("saved.partial")), "nothing is left")
            t.eventually(lambda: counts(machine.console.text[before:]), 20, "a number after a save that failed")
        write("pids.max", "max")
        machine.ctl("snapshot", t.path("saved"), "--live", "--stop")
        machine.ends(0)
    finally:
        machine.end()
        os.rmdir(group)


@test
def nothing_runs_on_while_a_machine_is_saved_to_end(t):
    """What its guest would do then were lost."""
    machine = t.small(run=COUNT, mem="512M")
    machine.console.expect("count 3\n")
    save = subprocess.Popen([t.images.vmm, "ctl", machine.control, "snapshot", t.path("saved"), "--live", "--stop"], stdout=subprocess.DEVNULL)
    said = []
    while save.poll() is None:
        result = subprocess.run([t.images.vmm, "ctl", machine.control, "resume"], text=True, capture_output=True)
        said.append(result.stderr.strip())
    t.true("vmm: the machine ends when its state is saved: until then it takes status, metrics and stop" in said, said)
    machine.ends(0)
    last = counts(machine.console.text)[-1]
    copy = t.machine("--restore", t.path("saved"))
    copy.console.expect(r"count \d+\n(.|\n)*count \d+\n")
    t.between(counts(copy.console.text)[0], last, last + 1, "the copy's first number")
    copy.ctl("stop")
    copy.ends(5)


# Features that a processor may lack: their names in /proc/cpuinfo, where the state has them (what is before the number, by state.h; its
# distance and its bit), what the refusal names.
CPUID_7 = struct.pack("<III", 7, 0, 1)
ID_AA64ISAR0 = 0x603000000013c030       # KVM's number of it
FEATURES = {
    "x86_64": [("avx512f", CPUID_7, 4, 16, "AVX512F"), ("sha_ni", CPUID_7, 4, 29, "SHA")],
    "aarch64": [("rng", struct.pack("<HIQHI", 1, 8, ID_AA64ISAR0, 2, 8), 4, 28, f"{ID_AA64ISAR0:#x}")],
}


def with_feature(t, saved, changed, before, distance, bit):
    """A copy of a snapshot whose guest was told of one more feature; digests fit."""
    shutil.copytree(saved, changed)
    with open(f"{changed}/state", "r+b") as file:
        state = bytearray(file.read())
        at = state.find(before)
        t.true(at > 0, "what the guest was told is in the state")
        at += len(before) + distance
        word, = struct.unpack_from("<I", state, at)
        t.true(not word & 1 << bit, "the guest lacks it")
        struct.pack_into("<I", state, at, word | 1 << bit)
        file.seek(0)
        file.write(state)
    with open(f"{changed}/manifest.json") as file:
        manifest = json.load(file)
    del manifest["digest"]
    manifest["state"]["digest"] = hashlib.sha256(state).hexdigest()

    def text():
        return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"

    manifest["digest"] = hashlib.sha256(text().encode()).hexdigest()
    with open(f"{changed}/manifest.json", "w") as file:
        file.write(text())


@test
def reboot_of_a_copy(t):
    """It boots anew what the snapshot has, from its own disk: what it wrote is there, and the snapshot as it was."""
    kernel = shutil.copy(t.images.kernel, t.path("kernel"))
    machine = t.small("--disk", t.file("disk.img", b"first", size=1 << 20), kernel=kernel)
    os.remove(kernel)
    machine.ctl("snapshot", t.path("saved"), "--stop")
    machine.ends(0)
    host.run(t.images.vmm, "snapshot", "export", t.path("saved"), t.path("saved.vmm"))
    for path in (t.path("saved"), t.path("saved.vmm")):
        copy = t.restore(path)
        t.equal(copy.run("head -c 5 /dev/vda"), "first")
        copy.run("echo -n later >/dev/vda; sync")
        copy.console.send("reboot -f\n")
        copy.console.expect("vmm-guest: init up")
        t.equal(copy.run("head -c 5 /dev/vda"), "later", "after a reboot")
        copy.power_off()


@test
def nothing_is_opened_that_only_the_snapshot_names(t):
    """Kernel, initrd, read-only disk, ports, vsock and console of a snapshot: its person names them, or they are not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = t.file("data.img", b"shared".ljust(4096, b"\0"))
    machine = t.small("--disk", f"{data},ro", "--net", f"user,hostfwd=tcp::{port}-:80", "--vsock", t.path("vsock"), "--name", "first")
    save_and_end(t, machine)
    saved = t.path("saved")
    result = subprocess.run([t.images.vmm, "--restore", saved], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal((result.returncode, result.stderr), (1, f"vmm: snapshot '{saved}' has no copy of its read-only disk '{data}': say which file it is "
                                                 "with --disk blk0=PATH,format=raw or ,format=qcow2\n"))
    with socket.socket() as taken:      # the port is of no interest
        taken.bind(("127.0.0.1", port))
        taken.listen()
        copy = t.restore(saved)
        t.equal(copy.errors(), "vmm: not connected, as only the snapshot names it: published ports and host loopback of net0 (--net), "
                               f"vsock to '{t.path('vsock')}' (--vsock)\n")
        t.true(not os.path.exists(t.path("vsock")), "there is no vsock socket")
        t.equal(copy.ctl("status")["name"], "first")
        t.equal(copy.run("head -c 6 /dev/vda"), "shared")
        copy.console.send("reboot -f\n")
        copy.console.expect("vmm-guest: init up")
        t.equal(copy.ctl("status")["kernel"], "", "it booted the snapshot's")
        copy.power_off()


@test
def own_copy_of_a_disk(t):
    """With --disk, what a restored machine writes outlives it, as an image that another one boots with."""
    machine = t.small("--disk", t.file("disk.img", b"first", size=1 << 20))
    saved, mine = t.path("saved"), t.path("mine.qcow2")
    machine.ctl("snapshot", saved, "--stop")
    machine.ends(0)
    subprocess.run([t.images.vmm, "--restore", saved, "--disk", mine, "--dry-run"], check=True)
    t.true(not os.path.exists(mine), "a dry run leaves nothing behind")
    copy = t.restore(saved, "--disk", mine)
    copy.run("echo -n later >/dev/vda; sync")
    copy.power_off()
    again = t.small("--disk", mine)
    t.equal(again.run("head -c 5 /dev/vda"), "later")
    again.power_off()
    t.equal(t.restore(saved).run("head -c 5 /dev/vda"), "first")
    result = subprocess.run([t.images.vmm, "--restore", saved, "--disk", mine], text=True, capture_output=True)
    t.equal(result.returncode, 1)
    t.contains(result.stderr, mine)


@test
def processor_without_a_feature_is_refused(t):
    with open("/proc/cpuinfo") as info:
        flags = next(line for line in info if line.startswith(("flags", "Features"))).split()
    missing = [feature for feature in FEATURES[HERE] if feature[0] not in flags]
    if not missing:
        raise Skip("the host has all of the features that could be asked for")
    _, before, distance, bit, name = missing[0]
    machine = t.small()
    save_and_end(t, machine)
    with_feature(t, t.path("saved"), t.path("changed"), before, distance, bit)
    result = subprocess.run([t.images.vmm, "--restore", t.path("changed")], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(result.returncode, 1, result.stderr)
    t.contains(result.stderr, name)
    t.equal(len(result.stderr.strip().splitlines()), 1, result.stderr)


@test
def full_disk_in_a_save(t):
    small = t.path("small")
    os.mkdir(small)
    host.run("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small)
    try:
        machine = t.small()
        machine.run("head -c 20000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum")
        for how in ([], ["--live"], ["--stop"]):
            text = machine.ctl("snapshot", f"{small}/saved", *how, code=1)
            t.contains(text, "No space left")
            t.contains(text, f"{small}/saved.partial/memory")
            t.equal(os.listdir(small), [], "what is left")
            t.equal(machine.run("md5sum </tmp/f"), machine.run("cat /tmp/sum"))
        # What changed since the last whole one is known as before.
        machine.ctl("snapshot", t.path("base"))
        machine.run("head -c 20000000 /dev/urandom >/tmp/f; md5sum </tmp/f >/tmp/sum")
        machine.ctl("snapshot", f"{small}/next", "--incremental", t.path("base"), code=1)
        changed_since(t, machine, t.path("next"), t.path("base"))
        machine.power_off()
        copy = t.restore(t.path("next"))
        t.equal(copy.run("md5sum </tmp/f"), copy.run("cat /tmp/sum"))
        copy.power_off()
    finally:
        host.run("umount", small)


@test
def refuses(t):
    machine = t.small()
    saved = t.path("saved")
    machine.ctl("snapshot", saved)
    t.contains(machine.ctl("snapshot", saved, code=1), "exists")
    t.contains(machine.ctl("snapshot", code=1), "DIR is missing")
    t.contains(machine.ctl("snapshot", t.path("x"), "--liv", code=1), "did you mean '--live'")
    t.contains(machine.ctl("snapshot", "/nowhere/at/all", code=1), "/nowhere/at/all")
    machine.power_off()

    def refusal(*options):
        result = subprocess.run([t.images.vmm, *options], text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        t.equal(result.returncode, 1, f"vmm {' '.join(options)}: {result.stderr}")
        t.equal(len(result.stderr.strip().splitlines()), 1, result.stderr)
        return result.stderr

    t.contains(refusal("--restore", t.path("nowhere")), "there is no such directory")
    t.contains(refusal("--restore", saved, "--mem", "1G"), "--mem does not go with --restore")
    t.contains(refusal("--restore", saved, "--vsock", t.path("v")), "no vsock device")
    for name, change in (("version", ('"version": 3', '"version": 9')), ("architecture", (HERE, "riscv64")),
                         ("size", ('"size": 268435456', '"size": 268439552'))):
        broken = t.path(f"broken-{name}")
        shutil.copytree(saved, broken)
        with open(f"{broken}/manifest.json") as manifest:
            text = manifest.read()
        t.contains(text, change[0])
        with open(f"{broken}/manifest.json", "w") as manifest:
            manifest.write(text.replace(*change))
        t.contains(refusal("--restore", broken), {"version": "version 9", "architecture": "altered", "size": "altered"}[name])
    copied = t.path("copied")
    shutil.copytree(saved, copied)
    with open(f"{copied}/memory", "r+b") as memory:
        memory.seek(1 << 20)
        byte = memory.read(1)
        memory.seek(1 << 20)
        memory.write(bytes([byte[0] ^ 1]))
    t.contains(refusal("--restore", copied), "its file 'memory'")
    shutil.copy2(f"{saved}/memory", f"{copied}/memory")
    t.restore(copied).power_off()
