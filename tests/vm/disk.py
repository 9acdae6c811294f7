"""Disks. The guest is the cloud kernel on Debian's root, for fio and util-linux; disks under test follow it."""
import hashlib
import os
import re
import time

from harness import Skip, host, test

MIB = 1 << 20
# Random writes of both sizes, each block with a checksum and its place in it.
FIO = ("fio --name=v --filename=/dev/{0} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-64k "
       "--size={1}M --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse {2}")


def fio_writes(machine, disk="vdb", size=24, extra="--do_verify=1"):
    machine.run(FIO.format(disk, size, extra), timeout=180)


def fio_reads_back(machine, disk="vdb", size=24):
    machine.run(FIO.format(disk, size, "--verify_only"), timeout=180)


def lines_of(machine, *files):
    return machine.run(f"cat {' '.join(files)}").split("\n")


def written_and_read_after_a_reboot(t, keys):
    disk = t.file("disk.img", size=32 * MIB)
    machine = t.shell("--disk", f"{disk}{keys}", cpus=2)
    fio_writes(machine)
    machine.power_off()
    machine = t.shell("--disk", f"{disk}{keys}")
    fio_reads_back(machine)
    statistics = machine.metrics("blk1")
    t.equal(statistics["errors"], 0, "errors")
    t.between(statistics["bytes_read"], 24 * MIB, 40 * MIB, "bytes read")
    machine.power_off()


@test
def data_outlives_a_reboot(t):
    written_and_read_after_a_reboot(t, "")


@test
def data_outlives_a_reboot_with_threads(t):
    written_and_read_after_a_reboot(t, ",io=threads")


@test
def data_outlives_a_reboot_with_queues(t):
    written_and_read_after_a_reboot(t, ",queues=2,queue-size=64")


@test
def what_the_guest_writes_is_in_the_file(t):
    disk = t.file("disk.img", b"from the host   " * 32, size=MIB)
    machine = t.small("--disk", disk)
    t.equal(machine.run("head -c 13 /dev/vda"), "from the host")
    machine.run("printf 'from the guest' | dd of=/dev/vda bs=512 seek=8 conv=fsync,notrunc,sync 2>/dev/null")
    t.true(machine.metrics("blk0")["flushes"] > 0, "fsync is a flush")
    # It is there before the machine ends.
    with open(disk, "rb") as file:
        file.seek(8 * 512)
        t.equal(file.read(14), b"from the guest")
    machine.power_off()


@test
def several_disks_and_their_keys(t):
    disks = [t.file(f"disk{i}.img", size=(i + 1) * MIB) for i in range(3)]
    layers = [os.urandom(MIB), os.urandom(3 * MIB + 512)]
    extents = "".join(f'RW {len(layer) // 512} FLAT "{t.file(f"layer{i}", layer)}" 0\n' for i, layer in enumerate(layers))
    image = t.file("image.vmdk", f'# Disk DescriptorFile\nversion=1\ncreateType="twoGbMaxExtentFlat"\n{extents}'.encode())
    machine = t.small("--disk", f"{disks[0]},serial=FIRST", "--disk", f"{disks[1]},ro,serial=SECOND DISK 20 BYTE",
                      "--disk", f"path={disks[2]},queues=4,queue-size=16", "--disk", f"{image},format=vmdk,ro", cpus=2)
    for i, (serial, read_only, size) in enumerate([("FIRST", "0", 2048), ("SECOND DISK 20 BYTE", "1", 4096), ("", "0", 6144)]):
        block = f"/sys/block/vd{'abc'[i]}"
        t.equal(machine.run(f"cat {block}/serial; echo; cat {block}/ro {block}/size").split(), [*serial.split(), read_only, str(size)])
    t.equal(machine.run("ls /sys/block/vdc/mq | wc -l"), "2", "queues in use, of 4, by 2 processors")
    t.contains(machine.run("dd if=/dev/zero of=/dev/vdb count=1 2>&1", code=1), "not permitted", "a write to a read-only disk")
    with open(disks[1], "rb") as file:
        t.equal(file.read().count(0), 2 * MIB)
    machine.run("dd if=/dev/zero of=/dev/vda count=1 2>&1; dd if=/dev/zero of=/dev/vdc count=1 2>&1")
    t.equal(machine.run("sha256sum </dev/vdd").split()[0], hashlib.sha256(b"".join(layers)).hexdigest(), "a disk of two files")
    machine.power_off()


@test
def two_machines_read_one_disk(t):
    disk = t.file("disk.img", b"shared", size=MIB)
    machines = [t.small("--disk", f"{disk},ro") for _ in range(2)]
    for machine in machines:
        t.equal(machine.run("head -c 6 /dev/vda"), "shared")
    for machine in machines:
        machine.power_off()


@test
def discard_frees_the_file(t):
    disk = t.file("disk.img", size=64 * MIB)
    machine = t.shell("--disk", disk)
    machine.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=32 oflag=direct 2>/dev/null", timeout=120)
    t.between(host.blocks(disk), 32 * MIB, 33 * MIB, "the file's blocks")
    machine.run("blkdiscard --offset 4M --length 16M /dev/vdb")
    t.between(host.blocks(disk), 16 * MIB, 17 * MIB, "the file's blocks after a discard")
    t.true(machine.metrics("blk1")["discards"] > 0, "discards are counted")
    # A file system's, too.
    machine.run("mke2fs -q -t ext4 /dev/vdb && mount -o discard /dev/vdb /mnt && dd if=/dev/urandom of=/mnt/f bs=1M count=16 conv=fsync 2>/dev/null")
    full = host.blocks(disk)
    machine.run("rm /mnt/f; sync; fstrim /mnt")
    t.between(full - host.blocks(disk), 15 * MIB, 64 * MIB, "bytes that come back when a file is removed")
    machine.power_off()


@test
def write_zeroes(t):
    disk = t.file("disk.img", b"\xff" * (8 * MIB))
    machine = t.shell("--disk", disk)
    machine.run("blkdiscard --zeroout --offset 1M --length 2M /dev/vdb; sync")
    t.true(machine.metrics("blk1")["write_zeroes"] > 0, "zeroing without a transfer is counted")
    machine.power_off()
    with open(disk, "rb") as file:
        data = file.read()
    t.equal(data, b"\xff" * MIB + bytes(2 * MIB) + b"\xff" * (5 * MIB), "the file")


@test
def rate_limits(t):
    disk = t.file("disk.img", size=32 * MIB)
    machine = t.small("--disk", f"{disk},bps=4M", "--disk", f"{t.file('second.img', size=MIB)},iops=50")
    begin = time.monotonic()
    machine.run("dd if=/dev/vda of=/dev/null bs=64k iflag=direct count=256 2>/dev/null", timeout=120)
    # 16 MiB at 4 MiB/s, of which the first second's are free.
    t.between(time.monotonic() - begin, 2.5, 12 * t.patience, "seconds for 16 MiB at 4 MiB/s")
    begin = time.monotonic()
    machine.run("dd if=/dev/vdb of=/dev/null bs=4k iflag=direct count=200 2>/dev/null", timeout=120)
    t.between(time.monotonic() - begin, 2.5, 12 * t.patience, "seconds for 200 requests at 50 a second")
    t.true(machine.metrics("blk0")["throttled"] > 0, "waiting is counted")
    machine.power_off()


@test
def direct(t):
    """Past the page cache, on a file system that can: of the host's disk, as tmpfs has none in some kernels."""
    disk = t.file("disk.img", size=16 * MIB)
    machine = t.machine("--kernel", t.images.kernel, "--disk", f"{disk},direct", "--dry-run")
    if machine.wait() == 1:
        t.contains(machine.errors(), "direct")     # refused by name where the file system has none
        raise Skip("this kernel's tmpfs has no direct access, which was refused by name")
    machine = t.shell("--disk", f"{disk},direct")
    fio_writes(machine, size=8)
    machine.power_off()


@test
def a_file_that_shrinks_gives_errors_not_an_end(t):
    disk = t.file("disk.img", size=8 * MIB)
    machine = t.small("--disk", disk)
    os.truncate(disk, MIB)
    t.contains(machine.run("dd if=/dev/vda of=/dev/null bs=64k skip=64 count=1 iflag=direct 2>&1", code=1), "error")
    machine.run("dd if=/dev/vda of=/dev/null bs=64k count=1 iflag=direct 2>&1")
    machine.power_off()


@test
def scratch_keeps_the_file(t):
    """What a guest writes is there for it, and gone with the machine; several may use the file at once."""
    disk = t.file("disk.img", b"before" + bytes(4090), size=1 << 20)
    for path in (disk, t.path("disk.qcow2")):
        if path != disk:
            host.run(t.images.vmm, "disk", "convert", disk, path)
        machines = [t.small("--disk", f"{path},scratch") for _ in range(2)]
        for i, machine in enumerate(machines):
            t.equal(machine.run("head -c 6 /dev/vda"), "before")
            machine.run(f"echo -n after{i} >/dev/vda; sync; echo 3 >/proc/sys/vm/drop_caches")
            t.equal(machine.run("head -c 6 /dev/vda"), f"after{i}")
        machines[0].console.send("reboot -f\n")
        machines[0].console.expect("vmm-guest: init up")
        t.equal(machines[0].run("head -c 6 /dev/vda"), "after0", "after a reboot")
        for machine in machines:
            machine.power_off()
    with open(disk, "rb") as file:
        t.equal(file.read(6), b"before")


@test
def qcow2_as_the_root(t):
    """A Debian root as a packed qcow2 image, and an overlay over it; qemu-img finds nothing wrong."""
    packed, overlay = t.path("packed.qcow2"), t.path("overlay.qcow2")
    host.run(t.images.vmm, "disk", "convert", t.images.root, packed, "--compress", "zstd")
    host.run(t.images.vmm, "disk", "create", overlay, "--backing", packed)
    machine = t.shell(disk=overlay)
    machine.run("mount -o remount,rw /; dd if=/dev/urandom of=/root/data bs=1M count=16 2>/dev/null; md5sum </root/data >/root/sum; sync")
    machine.run("mount -o remount,ro /")
    machine.ctl("stop")
    machine.ends(5)
    host.run("qemu-img", "check", overlay)
    machine = t.shell(disk=f"{overlay},ro")
    t.equal(machine.run("md5sum </root/data"), machine.run("cat /root/sum"))
    machine.ctl("stop")
    machine.ends(5)


def image_of(t, name, letter, size=8 * MIB):
    path = t.path(name)
    with open(path, "wb") as image:
        image.write(letter.encode() * 4096)
        image.truncate(size)
    return path


def sectors(machine, disk):
    return int(machine.run(f"cat /sys/block/{disk}/size"))


def has_nameless_files(t, machine):
    folder = f"/proc/{machine.pid}/fd"
    links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return any(link.startswith(t.path("")) and link.endswith("(deleted)") for link in links)


@test
def slots_of_a_running_guest(t):
    """Filled, replaced, enlarged and emptied while it runs; saved with one of them empty, and restored with both filled."""
    machine = t.small("--disk", "size=64M", "--disk", "size=64M,ro", "--disk", f"{image_of(t, 'base', 'b')},size=64M,scratch", "--net", "unplugged", "--vsock", "cid=3")
    t.equal([sectors(machine, disk) for disk in ("vda", "vdb", "vdc")], [0, 0, 16384], "sectors of empty slots, and of one that is not")
    t.true(has_nameless_files(t, machine), "a layer without a name")
    machine.ctl("detach", "blk2")
    t.true(not has_nameless_files(t, machine), "which takes no space without its slot")
    machine.ctl("attach", "blk0", image_of(t, "one", "1"))
    t.eventually(lambda: sectors(machine, "vda") == 16384, 30, "the guest sees it")
    t.equal(machine.run("head -c 3 /dev/vda; echo kept >/dev/vda; sync"), "111")
    t.contains(machine.ctl("attach", "blk0", t.path("one"), code=1), "something is attached to blk0")
    t.contains(machine.ctl("attach", "blk1", t.path("missing"), code=1), "does not exist")
    machine.console.send("(while dd if=/dev/vda of=/tmp/block bs=1M count=1 iflag=direct 2>/dev/null && [ -s /tmp/block ]; do :; done; echo >/tmp/over) &\n")
    machine.ctl("replace", "blk0", image_of(t, "two", "2"))
    t.contains(machine.ctl("replace", "blk0", t.path("two"), code=1), "is in the slot already: detach it first")
    os.rename(t.path("two"), t.path("moved"))
    machine.ctl("resize", "blk0", "16M")
    os.rename(t.path("moved"), t.path("two"))
    t.eventually(lambda: sectors(machine, "vda") == 32768, 30, "the guest sees it grow")
    machine.ctl("detach", "blk0")
    t.eventually(lambda: machine.run("ls /tmp/over", code=None) == "/tmp/over", 30, "errors, and no hang")
    with open(t.path("one"), "rb") as image:
        t.equal(image.read(5), b"kept\n", "what the guest wrote")

    machine.run("ip link set eth0 up")
    t.equal(machine.run("cat /sys/class/net/eth0/carrier"), "0")
    machine.ctl("attach", "net0", "user")
    machine.ctl("attach", "vsock", t.path("vsock"))
    t.eventually(lambda: machine.run("cat /sys/class/net/eth0/carrier") == "1", 30, "a link")
    t.true(os.path.exists(t.path("vsock")), "a socket")
    machine.run("udhcpc -i eth0 -n -q -s /bin/true", timeout=120)
    machine.ctl("detach", "net0")
    machine.ctl("detach", "vsock")
    t.eventually(lambda: machine.run("cat /sys/class/net/eth0/carrier") == "0", 30, "no link")
    t.true(not os.path.exists(t.path("vsock")), "no socket")
    t.equal(machine.children(), {}, "nor a network's process")

    machine.ctl("attach", "blk0", f"{t.path('one')},format=raw")
    t.eventually(lambda: machine.run("head -c 4 /dev/vda", code=None) == "kept", 30, "attached again")
    machine.ctl("snapshot", t.path("saved"))
    machine.ctl("replace", "blk0", t.path("two"))
    machine.ctl("snapshot", t.path("later"), "--incremental", t.path("saved"))
    machine.console.send("echo b >/proc/sysrq-trigger\n")
    machine.console.expect("vmm-guest: init up")
    t.equal(machine.run("head -c 3 /dev/vda"), "222", "a guest that resets has what was attached")
    machine.power_off()

    copy = t.restore(t.path("saved"), "--disk", f"blk1={image_of(t, 'three', '3')}")
    t.eventually(lambda: sectors(copy, "vdb") == 16384, 30, "it is told of the other one")
    t.equal(copy.run("head -c 4 /dev/vda; head -c 3 /dev/vdb"), "kept333")
    copy.power_off()
    copy = t.restore(t.path("later"), "--net", "user")
    t.eventually(lambda: copy.run("cat /sys/class/net/eth0/carrier") == "1", 30, "it is told of its link")
    t.equal(copy.run("head -c 3 /dev/vda; cat /sys/block/vdb/size"), "2220", "the disk that was attached last is in the snapshot")
    copy.power_off()
