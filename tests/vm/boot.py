"""Loading a kernel, and the machine that it finds: processors, memory, clocks, tables."""
import base64
import calendar
import gzip
import os
import re
import struct
import subprocess
import time

from harness import Skip, host, test
from harness.architecture import CLOCK_SOURCE, CONSOLE, HERE
from harness.machine import with_ticks


@test(only="x86_64")
def vmlinux_by_pvh(t):
    """A kernel that does not say that it is Linux."""
    with open(t.images.kernel, "rb") as file:
        kernel = file.read()
    kernel, count = re.subn(rb"(\x06\0\0\0.{8})Linux\0", rb"\1Other\0", kernel, flags=re.DOTALL)
    t.true(count >= 2, f"{count} notes of the owner Linux")
    machine = t.small("--log-level", "debug", kernel=t.file("vmlinux", kernel), run="uname -r")
    machine.ends(0)
    t.contains(machine.console.text, "vmm-guest: exit 0")
    t.contains(machine.errors(), "entered by PVH")


@test(only="x86_64")
def vmlinux_by_the_64_bit_protocol(t):
    machine = t.small("--log-level", "debug", run="uname -r")
    machine.ends(0)
    t.contains(machine.errors(), "entered in 64-bit mode")
    machine = t.small(run="uname -r; id -u")
    t.equal(machine.wait(), 0)
    t.contains(machine.console.text, "vmm-guest: init up")
    t.contains(machine.console.text, "vmm-guest: exit 0")
    t.equal(machine.errors(), "", "standard error of a good run")


@test(only="x86_64")
def bzimage_and_its_cache(t):
    """The kernel in it and the packed initrd are unpacked at the first start, and taken from there at the second."""
    cache = t.path("cache")
    kept = []
    for _ in range(2):
        machine = t.small(kernel=t.images.bzimage, run="uname -r", env={"XDG_CACHE_HOME": cache})
        machine.ends(0)
        t.contains(machine.console.text, "vmm-guest: exit 0")
        kept.append({os.path.join(os.path.basename(folder), name): os.stat(os.path.join(folder, name)).st_ino
                     for folder, _, names in os.walk(cache) for name in names})
    t.equal(sorted(os.path.dirname(name) for name in kept[0]), ["initrds", "kernels"], "what is kept")
    t.equal(kept[1], kept[0], "the files, by their inodes, after the second start")


@test(only="x86_64")
def bzimage_without_a_cache(t):
    machine = t.small(kernel=t.images.bzimage, run="uname -r", env={"XDG_CACHE_HOME": "/proc/nowhere"})
    machine.ends(0)
    t.contains(machine.console.text, "vmm-guest: exit 0")


@test(only="x86_64")
def bzimage_by_its_own_entry(t):
    """A payload that the host cannot take out: the bzImage unpacks itself, as a fall-back."""
    with open(t.images.bzimage, "rb") as file:
        image = bytearray(file.read())
    struct.pack_into("<I", image, 0x24c, 0)     # payload_length
    machine = t.small(kernel=t.file("bzImage", bytes(image)), run="uname -r")
    machine.ends(0, timeout=120)
    t.contains(machine.console.text, "vmm-guest: exit 0")


@test(only="x86_64")
def vmlinux_without_a_pvh_entry(t):
    with open(t.images.kernel, "rb") as file:
        image = bytearray(file.read())
    note = struct.pack("<II4s", 8, 18, b"Xen\0")        # XEN_ELFNOTE_PHYS32_ENTRY: the entry of PVH
    places = [match.start() for match in re.finditer(re.escape(note), image)]
    t.true(places, "the kernel has a note of PVH")
    for place in places:
        struct.pack_into("<I", image, place + 4, 99)
    machine = t.small(kernel=t.file("vmlinux", bytes(image)), run="uname -r")
    machine.ends(0)
    t.contains(machine.console.text, "vmm-guest: exit 0")


@test(only="aarch64")
def packed_image(t):
    """Unpacked by the host at the first start, and taken from its cache at the second."""
    with open(t.images.kernel, "rb") as file:
        packed = t.file("Image.gz", gzip.compress(file.read(), 1))
    cache = t.path("cache")
    for _ in range(2):
        machine = t.small(kernel=packed, run="uname -m", env={"XDG_CACHE_HOME": cache})
        machine.ends(0)
        t.contains(machine.console.text, "aarch64\nvmm-guest: exit 0")
        t.equal(len(os.listdir(os.path.join(cache, "vmm", "kernels"))), 1, "kernels in the cache")


@test
def log_file(t):
    path = t.path("log")
    machine = t.small("--log-level", "info", "--log-file", path, run="true")
    t.equal(machine.ends(0), "", "standard error")
    with open(path) as log:
        t.contains(log.read(), "powered off")


@test
def append_adds_to_a_good_command_line(t):
    machine = t.small(run="cat /proc/cmdline", append="vmm.test=1 panic=7")
    machine.ends(0)
    words = re.search(r"^.*vmm\.test=1.*$", machine.console.text, re.M).group().split()
    t.contains(words, f"console={CONSOLE[HERE]}")
    t.true(words.index("panic=7") > words.index("panic=-1"), f"the words given come last: {words}")


@test
def no_disk_gives_no_root(t):
    machine = t.small(run="cat /proc/cmdline; ls /sys/block")
    machine.ends(0)
    t.true("root=" not in machine.console.text and "vda" not in machine.console.text,
           f"a machine without disks has no root: {machine.console.text}")


def smp(t, count):
    machine = t.small(cpus=count, mem="256M")
    t.equal(machine.run("nproc"), str(count))
    t.equal(machine.run("cat /sys/devices/system/cpu/online"), f"0-{count - 1}")
    # Each of them runs something, and interrupts reach it.
    machine.run("for i in $(seq 0 %d); do taskset $((1 << i)) sh -c 'i=0; while [ $i -lt 500 ]; do i=$((i+1)); done'; done"
                % (count - 1), timeout=120)
    cores = machine.run("grep -c '^processor' /proc/cpuinfo; grep -m1 'cpu cores' /proc/cpuinfo; "
                        "grep -m1 siblings /proc/cpuinfo; grep 'physical id' /proc/cpuinfo | sort -u | wc -l")
    t.contains(cores, f"{count}\n")
    t.true(len(machine.metrics()["vcpus"]) == count, "metrics tell of each vCPU")
    machine.power_off()


@test
def two_processors(t):
    smp(t, 2)


@test
def four_processors(t):
    smp(t, 4)


@test
def eight_processors(t):
    smp(t, 8)


def total_kib(machine):
    return int(machine.run("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0])


@test
def memory_128m(t):
    machine = t.small(mem="128M")
    t.between(total_kib(machine) >> 10, 80, 128, "MemTotal in MiB")
    machine.power_off()


@test
def memory_2g(t):
    machine = t.small(mem="2G")
    t.between(total_kib(machine) >> 10, 1900, 2048, "MemTotal in MiB")
    machine.power_off()


@test
def memory_6g_around_the_hole(t):
    if host.total_memory() < 6 << 30:
        raise Skip(f"this host has {host.total_memory() >> 20} MiB, 6 GiB are needed")
    machine = t.small(mem="6G")
    t.between(total_kib(machine) >> 10, 5900, 6144, "MemTotal in MiB")
    # The zone above 4 GiB has the 3 GiB that did not fit below the hole (on aarch64: below 4 GiB, memory begins at 1 GiB), and is in use.
    zone = machine.run("awk '/^Node/ { zone = $4 } zone == \"Normal\" && $1 == \"present\" { print $2 } ' /proc/zoneinfo")
    t.equal(int(zone) * 4 >> 10, 3072, "memory of the zone in MiB")
    free = "awk '/^Node/ { zone = $4 } zone == \"Normal\" && $1 == \"pages\" { print $3 }' /proc/zoneinfo"
    before = int(machine.run(free))
    machine.run("dd if=/dev/urandom of=/tmp/data bs=1M count=64 2>/dev/null", timeout=120)
    used = (before - int(machine.run(free))) * 4 >> 10
    t.true(used >= 48, f"of 64 MiB written, {used} MiB lie above 4 GiB")
    first = machine.run("sha256sum </tmp/data", timeout=120)
    machine.run("cp /tmp/data /tmp/copy", timeout=120)
    t.equal(machine.run("sha256sum </tmp/copy", timeout=120), first, "the copy's digest")
    machine.power_off()


@test
def clocks(t):
    machine = t.small()
    t.equal(machine.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource"), CLOCK_SOURCE[HERE])
    t.between(int(machine.run("date +%s")) - int(time.time()), -3, 3, "the guest's clock, s ahead,")
    rtc = machine.run("cat /sys/class/rtc/rtc0/date /sys/class/rtc/rtc0/time").split()
    seconds = calendar.timegm(time.strptime(" ".join(rtc), "%Y-%m-%d %H:%M:%S"))
    t.between(seconds - int(time.time()), -3, 3, "the RTC, s ahead,")
    machine.power_off()


@test
def generation_id(t):
    machine = t.small()
    # The driver binds when the device has an address that it can map.
    devices = machine.run("for d in /sys/bus/*/drivers/vmgenid/*; do [ ! -e $d/driver ] || echo $d; done").split()
    t.equal(len(devices), 1, "devices of the generation ID's driver")
    machine.power_off()


@test(only="x86_64")
def acpi_tables(t):
    machine = t.small()
    names = machine.run("cd /sys/firmware/acpi/tables; ls").split()
    for name in ("FACP", "APIC", "MCFG", "DSDT"):
        t.contains(names, name, "the guest's ACPI tables")
    for name in ("FACP", "APIC", "MCFG", "DSDT"):
        text = machine.run(f"base64 /sys/firmware/acpi/tables/{name}")
        table = t.file(f"{name}.dat", base64.b64decode(text))
        # iasl checks checksums and structure; "Error" is its word for what it cannot take.
        result = subprocess.run(["iasl", "-d", table], text=True, capture_output=True)
        output = result.stdout + result.stderr
        t.true(result.returncode == 0 and "rror" not in output and "ncorrect checksum" not in output,
               f"iasl about {name}: {output}")
    t.equal(machine.run("dmesg | grep -iE 'ACPI (BIOS )?(Error|Warning)|firmware bug' || true"), "", "complaints of the kernel")
    machine.power_off()


@test
def nothing_to_complain_of(t):
    """The kernel finds no fault with the machine: no warnings or errors in its log."""
    machine = t.small("--net", "none", cpus=2)
    t.equal(machine.run("dmesg -r | grep -E '^<[0-3]>' || true"), "", "errors in the kernel's log")
    machine.power_off()


@test
def random_numbers(t):
    machine = t.small("--rng")
    t.contains(machine.run("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng")
    t.equal(machine.run("head -c 4096 /dev/hwrng | wc -c"), "4096")
    machine.power_off()


@test
def dry_run_starts_nothing(t):
    machine = t.small("--dry-run", run="true")
    machine.ends(0)
    t.equal(machine.console.text, "", "what a guest that never ran printed")


@test
def file_equals_options(t):
    """What --print-config prints gives the same machine, and prints the same again."""
    disk = t.file("disk.img", size=1 << 20)
    options = with_ticks([
        "--kernel", t.images.kernel, "--initrd", t.images.initramfs, "--mem", "128M", "--cpus", "2",
        "--disk", f"{disk},serial=FROM-FILE,ro", "--name", "by file", "--balloon",
        "--append", "vmm.run=nproc;cat%20/sys/block/vda/serial;cat%20/sys/block/vda/ro;ls%20/sys/bus/virtio/devices"])
    first = subprocess.run([t.images.vmm, *options, "--print-config"], text=True, capture_output=True, check=True).stdout
    config = t.file("config.json", first.encode())
    second = subprocess.run([t.images.vmm, "--config", config, "--print-config"], text=True, capture_output=True,
                            check=True).stdout
    t.equal(second, first, "--print-config of what it printed")
    outputs = []
    for words in (options, ["--config", config]):
        machine = t.machine(*words)
        machine.ends(0)
        outputs.append(re.sub(r" *[0-9]+\.[0-9]+", " TIME", machine.console.text))
    t.equal(outputs[1], outputs[0], "the guest by file and by options")
    t.contains(outputs[0], "2\nFROM-FILE1\nvirtio0")
    override = t.machine("--config", config, "--cpus", "1")
    override.ends(0)
    t.contains(override.console.text, "1\nFROM-FILE")
