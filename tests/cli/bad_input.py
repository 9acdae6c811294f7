"""Input that vmm refuses: one sentence that names the value and what would be right, exit code 1,
nothing left behind."""
import json
import os
import re
import shutil
import socket
import struct
import subprocess

from harness import Failure, host, test
from harness.images import ROOT

MIB = 1 << 20


def refused(t, options, *parts, prefix=(), files=(), words=None):
    """Runs vmm, which is to refuse, in a sentence with all of `parts`."""
    before = {*os.listdir(t.folder), *files}
    command = [*prefix, t.images.vmm, *(words or ["--kernel", t.images.kernel, *map(str, options)])]
    result = subprocess.run(command, text=True, errors="replace", capture_output=True, stdin=subprocess.DEVNULL, timeout=60 * t.patience)
    said = result.stderr
    what = f"`vmm {' '.join(map(str, options))}`"
    if result.returncode != 1:
        raise Failure(f"{what} ended with {result.returncode}, not 1: {said}")
    t.equal(result.stdout, "", f"{what} on standard output")
    if not said.startswith("vmm: ") or said.count("\n") != 1 or not said.endswith("\n"):
        raise Failure(f"{what} says not one line that begins with 'vmm: ': {said!r}")
    for part in parts:
        t.contains(said, str(part), what)
    if said.rstrip("\n").endswith("."):
        raise Failure(f"{what} ends its sentence with a full stop: {said!r}")
    left = set(os.listdir(t.folder)) - before
    t.true(not left, f"{what} leaves {left} behind")
    t.true(not host.machine_processes(), f"{what} leaves {host.machine_processes()} behind")


def in_namespace(t, script, then='exec "$@"'):
    """Words that run vmm after a script that changes mounts, unseen by others."""
    return ["unshare", "-m", "sh", "-euc", f"mount --make-rprivate /; {script}; {then}", "sh"]


# ---- KVM

# /dev/shm stays, where the tests' files are.
WITHOUT_DEVICES = "mount --bind /dev/shm /mnt; mount -t tmpfs tmpfs /dev; mkdir /dev/shm; mount --bind /mnt /dev/shm"


@test
def kvm_is_missing(t):
    refused(t, [], "/dev/kvm", "kvm_amd", prefix=in_namespace(t, WITHOUT_DEVICES))


@test
def kvm_without_permission(t):
    node = t.path("kvm")
    prefix = in_namespace(t, f"mknod -m 600 {node} c 10 232; mount --bind {node} /dev/kvm; rm {node} || true",
                          'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"')
    refused(t, [], "no permission", "/dev/kvm", "group", prefix=prefix, files=["kvm"])


@test
def kvm_that_runs_no_guests(t):
    refused(t, [], "cannot boot a stock kernel", "VT-x or AMD-V", prefix=in_namespace(
        t, "mount -t tmpfs tmpfs /sys/module; mkdir /sys/module/kvm_pvm"))


# ---- kernel and initrd

def refused_kernel(t, path, *parts):
    refused(t, [], *parts, words=["--kernel", path])


@test
def kernel_not_given(t):
    refused(t, [], "--kernel", words=["--mem", "1G"])


@test
def kernel_missing(t):
    refused_kernel(t, t.path("none"), t.path("none"), "No such file")


@test
def kernel_empty(t):
    refused_kernel(t, t.file("kernel"), t.path("kernel"), "empty")


@test
def kernel_is_a_directory(t):
    refused_kernel(t, "/etc", "'/etc'")


@test
def kernel_is_something_else(t):
    refused_kernel(t, t.file("kernel", b"#!/bin/sh\necho hello\n" * 1000), t.path("kernel"), "bzImage")


def first_part(path, size):
    with open(path, "rb") as image:
        return image.read(size)


def end_of_segments(path):
    """Of an ELF file: what lies behind is not needed to run it."""
    header = first_part(path, 4096)
    (offset,), (size, count) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<HH", header, 54)
    segments = [struct.unpack_from("<I4xQ16xQ", header, offset + i * size) for i in range(count)]
    return max(begin + length for kind, begin, length in segments if kind == 1)


@test
def kernel_truncated(t):
    for image, end in ((t.images.kernel, end_of_segments(t.images.kernel)), (t.images.bzimage, os.path.getsize(t.images.bzimage) - 4095)):
        for size in (40, 600, 5000, end // 2, end - 1):
            path = t.file("kernel", first_part(image, size))
            refused_kernel(t, path, path)


@test
def kernel_damaged(t):
    """A payload that cannot be unpacked, or unpacks to something else, is no kernel."""
    data = bytearray(first_part(t.images.bzimage, 1 << 30))
    middle = len(data) // 2
    data[middle:middle + 64] = os.urandom(64)
    path = t.file("kernel", bytes(data))
    refused_kernel(t, path, path)


@test
def kernel_of_another_architecture(t):
    for machine, name in ((183, "arm64"), (243, "x86")):
        header = bytearray(first_part(t.images.kernel, 64 << 10))
        struct.pack_into("<H", header, 18, machine)
        path = t.file("kernel", bytes(header))
        refused_kernel(t, path, path, name, "x86")
    # An Image of arm64 begins with code and has its magic at 56.
    image = bytearray(64 << 10)
    image[56:60] = b"ARM\x64"
    path = t.file("kernel", bytes(image))
    refused_kernel(t, path, path)


@test
def kernel_larger_than_memory(t):
    refused(t, ["--kernel", t.images.kernel, "--mem", "128M", "--initrd", t.file("initrd", b"x", size=127 * MIB)],
            t.path("initrd"), words=["--kernel", t.images.kernel, "--mem", "128M", "--initrd", t.path("initrd")])


@test
def initrd_missing_or_empty(t):
    refused(t, ["--initrd", t.path("none")], t.path("none"))
    refused(t, ["--initrd", t.file("initrd")], t.path("initrd"))
    refused(t, ["--initrd", "/etc"], "/etc")


@test
def initrd_larger_than_memory(t):
    path = t.file("initrd", b"x", size=512 * MIB)
    refused(t, ["--initrd", path, "--mem", "256M"], path, str(512 * MIB), "room")


@test
def command_line_too_long(t):
    refused(t, ["--append", "x" * 5000], "command line")


# ---- disks

@test
def disk_missing(t):
    refused(t, ["--disk", t.path("none")], t.path("none"), "does not exist")


@test
def disk_empty(t):
    refused(t, ["--disk", t.file("disk")], t.path("disk"), "empty", "truncate")


@test
def disk_is_a_directory(t):
    refused(t, ["--disk", t.folder], t.folder, "directory")


@test
def disk_of_no_kind(t):
    refused(t, ["--disk", "/dev/zero,ro"], "/dev/zero", "neither a file nor a block device")


@test
def disk_of_odd_size(t):
    refused(t, ["--disk", t.file("disk", b"x", size=1000)], t.path("disk"), "1000", "512")


@test
def disk_not_writable(t):
    path = t.file("disk", size=MIB)
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    refused(t, ["--disk", path], path, "not writable", ",ro", prefix=user)
    os.chmod(path, 0)
    refused(t, ["--disk", path], path, "permission", prefix=user)


@test
def disk_in_use(t):
    path = t.file("disk", size=MIB)
    machine = t.small("--disk", path)
    taken = subprocess.run([t.images.vmm, "--kernel", t.images.kernel, "--disk", path], text=True, capture_output=True,
                           stdin=subprocess.DEVNULL)
    t.equal(taken.returncode, 1, "exit code")
    t.contains(taken.stderr, path)
    t.contains(taken.stderr, "in use by another vmm")
    reads = subprocess.run([t.images.vmm, "--kernel", t.images.kernel, "--disk", f"{path},ro"], text=True,
                           capture_output=True, stdin=subprocess.DEVNULL)
    t.contains(reads.stderr, "in use by another vmm")
    machine.power_off()
    # It is free again.
    t.small("--disk", path).power_off()


@test
def disk_twice_in_one_machine(t):
    path = t.file("disk", size=MIB)
    refused(t, ["--disk", path, "--disk", path], path, "is given twice")


@test
def disks_compared_tell_by_the_exit_code(t):
    paths = {"one": t.file("one", b"x", size=MIB), "same": t.file("same", b"x", size=2 * MIB),
             "other": t.file("other", b"y", size=MIB), "none": t.path("none")}
    for name, code in (("same", 0), ("other", 1), ("none", 2)):
        ended = subprocess.run([t.images.vmm, "disk", "compare", paths["one"], paths[name]], text=True, capture_output=True)
        t.equal(ended.returncode, code, f"the exit code of a comparison with '{name}': {ended.stdout}{ended.stderr}")


@test
def disk_keys(t):
    path = t.file("disk", size=MIB)
    for keys, *parts in (["seral=1", "'seral'", "'serial'"], ["ro=maybe", "maybe", "on or off"],
                         ["io=fast", "'fast'", "uring"], ["format=qcow", "'qcow'", "'qcow2'"], ["queues=0", "'0'", "1 to 64"], ["queues=65", "'65'"],
                         ["queue-size=100", "'100'", "power of two"], ["bps=2Q", "'2Q'", "512M"], ["iops=0", "'0'"],
                         ["serial=123456789012345678901", "20 bytes"], ["queues", "takes a value"]):
        refused(t, ["--disk", f"{path},{keys}"], path, *parts)


def new_image(t, name, *more):
    """An image made by vmm, and how its header can be changed."""
    path = t.path(name)
    made = subprocess.run([t.images.vmm, "disk", "create", path, *more], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal((made.returncode, made.stderr), (0, ""), f"vmm disk create {path}")
    return path


def patch(path, offset, data):
    with open(path, "r+b") as image:
        image.seek(offset)
        image.write(data)


@test
def images_that_cannot_be_read(t):
    """Header fields of qcow2 (docs/interop/qcow2.txt): what is not supported is named, what is damaged too."""
    for number, (offset, data, *parts) in enumerate((
            (4, struct.pack(">I", 9), "version 9"), (20, struct.pack(">I", 40), "2^40"), (32, struct.pack(">I", 2), "encrypted"),
            (40, struct.pack(">Q", 1 << 50), "L1 table", "leaves the file"), (48, struct.pack(">Q", 1), "refcount table"),
            (72, struct.pack(">Q", 1), "vmm disk check --repair"), (72, struct.pack(">Q", 2), "damaged"),
            (72, struct.pack(">Q", 4), "external data file"), (72, struct.pack(">Q", 16), "extended L2"),
            (72, struct.pack(">Q", 1 << 40), "incompatible feature 40"))):
        path = new_image(t, f"image{number}", "1M")
        patch(path, offset, data)
        refused(t, ["--disk", path], path, *parts)
    refused(t, ["--disk", f"{t.file('raw', size=MIB)},format=qcow2"], t.path("raw"), "not a qcow2 image")
    refused(t, ["--disk", f"{t.path('raw')},format=vmdk,ro"], t.path("raw"), "not a VMDK descriptor")
    image = t.file("image.vmdk", b'# Disk DescriptorFile\nRW 2048 FLAT "raw" 0\n')
    refused(t, ["--disk", f"{image},ro"], image, "list of other files", "vmdk")
    refused(t, ["--disk", f"{image},format=vmdk"], image, "',ro'")
    refused(t, ["--disk", f"{image},format=vmdk,scratch"], image, "',ro'")


@test
def backing_files(t):
    base = t.file("base", size=MIB)
    path = new_image(t, "overlay", "--backing", "base")
    os.remove(base)
    refused(t, ["--disk", path], path, base, "does not exist", "backing file")
    below = new_image(t, "below", "1M")
    above = new_image(t, "above", "--backing", "below")
    os.remove(below)
    os.symlink(above, below)
    refused(t, ["--disk", above], above, "loop")
    patch(path, 112, struct.pack(">II", 0x12345678, 8))     # an unknown extension in the place of the format
    refused(t, ["--disk", path], path, base, "does not say the format", "qemu-img rebase -u -F FORMAT")


@test
def disk_commands(t):
    raw, path = t.file("raw", size=MIB), new_image(t, "image", "1M")
    vmdk = t.file("vmdk", b"KDMV", size=MIB)
    for words, *parts in (
            [[], "create, convert, info, check, commit"], [["creat"], "'creat'", "'create'"],
            [["create", t.path("x")], "size is missing"], [["create", t.path("x"), "2Q"], "'2Q'"], [["create", t.path("x"), "0"], "'0'"],
            [["create", t.path("x"), "1000"], "1000", "512"], [["create", path, "1M"], path, "exists already"],
            [["create", t.path("no/x"), "1M"], t.path("no/x")], [["create", t.path("x"), "1M", "--format", "vmdk"], "'vmdk'", "qcow2"],
            [["create", t.path("x"), "1M", "--cluster-size", "1000"], "1000", "power of two"],
            [["create", t.path("x"), "1M", "--backing", "none"], t.path("none")], [["create", t.path("x"), "1M", "--baking", "b"], "'--baking'", "'--backing'"],
            [["create", t.path("x"), "1M", "--backing-format", "raw"], "--backing"], [["create"], "PATH [SIZE]"],
            [["create", t.path("x"), "1M", "more"], "'more'", "PATH [SIZE]"], [["info", ""], "an empty name", "PATH", "vmm disk --help"],
            [["convert", raw], "SOURCE TARGET"], [["convert", raw, path], path, "exists already"], [["convert", t.path("none"), t.path("x")], t.path("none")],
            [["convert", raw, t.path("x"), "--compress", "lzma"], "'lzma'", "zstd"],
            [["convert", raw, t.path("x"), "--format", "raw", "--compress", "zlib"], "raw"],
            [["info", t.path("none")], t.path("none")], [["info"], "PATH"], [["check", raw], raw, "raw"], [["check", t.path("none")], t.path("none")],
            [["commit", path], path, "no backing file"], [["commit", raw], raw, "no backing file"],
            [["convert", vmdk, t.path("x")], vmdk, "VMDK", f"qemu-img convert -f vmdk -O qcow2 {vmdk}"],
            [["convert", raw, t.path("x"), "--source-format", "vdi"], "--source-format", "'vdi'"],
            [["resize", path], "PATH SIZE"], [["resize", path, "1000"], "1000", "512"], [["resize", path, "512K"], path, "--shrink"],
            [["resize", path, "+2Q"], "'2Q'"], [["rebase", raw, path], raw, "no backing file"], [["rebase", path, t.path("none")], "none"],
            [["rebase", path, raw, "--unsafe"], "--backing-format"], [["rebase", path, "--unsafe"], "BACKING"]):
        refused(t, words, *parts, words=["disk", *words])


LONG = "n" * 300
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def refused_paths(t, table, files, prefix=()):
    """Rows of words and what the sentence says, in the test's folder; nothing is left and nothing is changed."""
    for words, *parts in table:
        refused(t, words, *parts, words=words, prefix=["env", "-C", t.folder, *prefix], files=files)


@test
def paths_of_disk_commands(t):
    t.file("raw", size=MIB), new_image(t, "image", "1M"), os.mkdir(t.path("directory")), os.symlink("raw", t.path("link"))
    os.symlink("image", t.path("same"))
    missing, directory, there, long = "does not exist", "is a directory", "exists already", "File name too long"
    rows = [[["disk", "create", *words], *parts] for words, *parts in (
        [["directory", "1M"], "'directory'", there], [["link", "1M"], "'link'", there], [["none/x", "1M"], "cannot create 'none/x'", "No such file"],
        [["raw/x", "1M"], "cannot create 'raw/x'", "Not a directory"], [["directory/", "1M"], "'directory/' does not name a file"],
        [[LONG, "1M"], f"cannot create '{LONG}'", long], [["-", "1M"], "'-'", "./-"], [["x", "1M", "--backing", "directory"], "'directory'", directory],
        [["x", "--backing", LONG], LONG, long], [["x", "--backing", "x"], "'x'", missing])]
    rows += [[["disk", "convert", *words], *parts] for words, *parts in (
        [["directory", "x"], "'directory'", directory], [["none", "x"], "'none'", missing], [["raw", "raw"], "'raw'", there],
        [["raw", "./link"], "'./link'", there], [["raw", "none/x"], "cannot create 'none/x'"], [["-", "x"], "'-'"], [["raw", "-"], "'-'"],
        [[LONG, "x"], LONG, long], [["raw", LONG], LONG, long])]
    for command, *more in (["info"], ["check"], ["commit"], ["resize", "2M"], ["rebase", "raw"]):
        rows += [[["disk", command, name, *more], *parts] for name, *parts in (
            ["directory", "'directory'", directory], ["none", "'none'", missing], [LONG, LONG, long], ["-", "'-'"])]
    rows += [[["disk", "rebase", "image", name], "'image' cannot be its own backing file"] for name in ("image", "same", "./image", t.path("image"))]
    refused_paths(t, rows, [])
    os.chmod(t.path("image"), 0o600)
    os.chmod(t.folder, 0o755)
    refused_paths(t, [[["disk", "create", "x", "1M"], "cannot create 'x'", "Permission denied"], [["disk", "convert", "raw", "x"], "'x'", "Permission denied"],
                      [["disk", "info", "image"], "'image'", "ermission"], [["disk", "check", "image"], "'image'", "ermission"]], [], prefix=NOBODY)


@test
def paths_of_snapshot_commands(t):
    shutil.copytree(golden("snapshot-v1"), t.path("saved"))
    shutil.copy(golden(), t.path("archive"))
    t.file("text", b"hello"), os.mkdir(t.path("empty"))
    rows = [[["snapshot", *words], *parts] for words, *parts in (
        [["ls", "text"], "'text'", "Not a directory"], [["ls", LONG], LONG, "too long"], [["prune", "none"], "'none'", "No such file"],
        [["inspect", "empty"], "'empty' is not a snapshot"], [["inspect", "-"], "'-'"], [["verify", "text"], "'text'", "not an exported snapshot"],
        [["rm", "./text"], "'./text'", "Not a directory"], [["rm", "./empty"], "'./empty' is not a snapshot"], [["merge", "saved", "saved"], "'saved' exists"],
        [["merge", "text", "new"], "'text'", "not a directory"], [["merge", "saved", "none/x"], "none/x", "No such file"], [["merge", "saved", LONG], LONG, "too long"],
        [["export", "saved", "empty"], "'empty' exists already"], [["export", "saved", "saved"], "'saved' exists already"],
        [["export", "saved", "none/x"], "cannot create 'none/x'"], [["export", "saved", LONG], LONG, "too long"], [["export", "saved", "-"], "'-'"],
        [["import", "archive", "archive"], "'archive' exists"], [["import", "archive", "none/x"], "none/x"], [["import", "saved", "new"], "'saved'", "not a regular file"],
        [["import", "archive", LONG], LONG, "too long"], [["export", "saved", "new", "--since", "none"], "'none'", "No such file"])]
    refused_paths(t, rows, [])


# ---- memory and processors

@test
def memory(t):
    for value, *parts in (["0", "'0'", "64M"], ["2Q", "'2Q'", "2G"], ["63M", "'63M'", "64M"], ["-1", "'-1'"],
                          ["1.5G", "'1.5G'"], ["100000G", "'100000G'", f"{host.total_memory() >> 20}M"],
                          ["99999999999999999999G", "99999999999999999999G"], ["134217729", "134217729", "1M"]):
        refused(t, ["--mem", value], "--mem", *parts)


@test
def processors(t):
    for value in ("0", "many", "-1", "1000000", "1.5"):
        refused(t, ["--cpus", value], "--cpus", f"'{value}'", "whole number")


@test
def more_processors_than_kvm_allows(t):
    import fcntl
    with open("/dev/kvm") as kvm:
        most = fcntl.ioctl(kvm, 0xAE03, 66)     # KVM_CHECK_EXTENSION of KVM_CAP_MAX_VCPUS
    if most < 4096:
        refused(t, ["--cpus", most + 1], most + 1, most)
    else:
        refused(t, ["--cpus", most + 1], most + 1)


# ---- words

@test
def unknown_option(t):
    refused(t, ["--dsk", "x"], "'--dsk'", "'--disk'")
    refused(t, ["--xyzzy"], "'--xyzzy'")
    refused(t, ["--memory", "1G"], "'--memory'", "'--mem'")
    refused(t, ["--drive", "x"], "'--drive'", "'--disk'")
    refused(t, ["-m", "1G"], "'-m'")
    refused(t, ["stray"], "'stray'")
    refused(t, ["--", "--mem"], "'--mem'")
    refused(t, ["--mem"], "mem")
    refused(t, ["--mem", "1G", "--mem", "2G"], "mem")


@test
def empty_values(t):
    """A variable that is not set: the option is named, or the key."""
    options = re.findall(r"^  (--[a-z-]+) [A-Z]", subprocess.run([t.images.vmm, "--help"], text=True, capture_output=True).stdout, re.M)
    t.true({"--kernel", "--mem", "--disk", "--log-file", "--restore"} <= set(options), f"options that take a value: {options}")
    for option in options:
        for words in ([option, ""], [f"{option}="]):
            refused(t, words, f"vmm: {option}: an empty value was given", words=words)
    for words in (["disk", "create", "x", "1M", "--format"], ["disk", "convert", "x", "y", "--progress"], ["snapshot", "import", "x", "y", "--base"],
                  ["ctl", t.path("none"), "snapshot", "x", "--incremental"]):
        for more in ([words[-1], ""], [f"{words[-1]}="]):
            refused(t, words, f"{words[-1]}: an empty value was given", words=[*words[:-1], *more])
    for option, value, key in (("--disk", "x,serial=", "serial"), ("--disk", "x,ro=", "ro"), ("--net", "user,mac=", "mac"), ("--net", "tap=", "tap"),
                               ("--vsock", "x,cid=", "cid")):
        refused(t, [option, value], f"'{value}': {key}: an empty value was given")


@test
def nobody_reads_the_sentence(t):
    """The exit code is the same when standard error is full or closed."""
    with open("/dev/full", "w") as full:
        t.equal(subprocess.run([t.images.vmm, "ctk"], stderr=full).returncode, 1, "exit code")


@test
def unknown_command(t):
    refused(t, [], "'ctk'", "'ctl'", "vmm help", words=["ctk"])
    refused(t, [], "'ctk'", words=["help", "ctk"])


@test
def unknown_device_words(t):
    for value, *parts in (["usr", "'usr'", "'user'"], ["tapp=x", "'tapp'", "'tap'"], ["user,hostfw=tcp::1-:2", "'hostfw'", "'hostfwd'"],
                          ["user,hostfwd=tcp:80", "'tcp:80'", "tcp::8080-:80"], ["user,hostfwd=tcp::99999-:80", "'99999'"],
                          ["user,queues=2", "queues=2", "tap"], ["user,vhost=on", "vhost=on", "tap"], ["user,mac=x", "'x'"],
                          ["user,mac=01:00:00:00:00:01", "01:00:00:00:00:01"], ["tap", "tap=NAME"], ["user,network=10.0.2.0/99", "99"],
                          ["user,mtu=1", "'1'"], ["user,tap=x", "'tap'", "the first word"], ["tap=vmm0,hostfwd=tcp::1-:2", "user"]):
        refused(t, ["--net", value], *parts)
    refused(t, ["--vsock", f"{t.path('v')},cod=3"], "'cod'", "'cid'")
    refused(t, ["--vsock", f"{t.path('v')},cid=2"], "'2'")
    refused(t, ["--vsock", "x" * 200], "x" * 200)
    refused(t, ["--serial", "tty"], "'tty'")
    refused(t, ["--serial", "fil:/x"], "'fil:/x'", "'file'")
    refused(t, ["--log-level", "loud"], "'loud'", "debug")


@test
def places_that_cannot_be_written(t):
    refused(t, ["--serial", "file:/proc/nowhere/x"], "/proc/nowhere/x")
    refused(t, ["--serial", "socket:/proc/nowhere/x"], "/proc/nowhere/x")
    refused(t, ["--log-file", "/proc/nowhere/x"], "/proc/nowhere/x")
    refused(t, ["--log-level", "info", "--log-file", t.path("no/such/x")], t.path("no/such/x"))
    refused(t, ["--control", "/proc/nowhere/x"], "/proc/nowhere/x")
    refused(t, ["--vsock", "/proc/nowhere/x"], "/proc/nowhere/x")
    refused(t, ["--control", "/" + "x" * 200], "x" * 200)


@test
def configuration_files(t):
    for text, *parts in (["{", "JSON"], ["[]", "object"], ['{"kernl": "x"}', "'kernl'", "'kernel'"], ['{"mem": []}', "mem: "],
                         ['{"balloon": "yes"}', "true or false"], ['{"mem": "2Q"}', "'2Q'"], ['{"disk": [{"path": "/none"}]}', "/none"],
                         ['{"disk": ["a", {"path": "b", "queues": 65}]}', "disk[1]: queues: ", "'65'", "1 to 64"], ['{"version": 2}', "version 2"],
                         ['{"net": {"user": true, "tap": "t0"}}', "net: tap: ", "only one kind"], ['{"disk": {"ro": true}}', "disk 0: a path is missing"],
                         ['{"cpus": 1.5}', "'cpus': 1.5"], ['{"serial": {"kind": "fil"}}', "'fil'", "'file'"], ["\xff\x00", "JSON"]):
        refused(t, ["--config", t.file("config.json", text.encode("latin-1"))], *parts)
    refused(t, ["--config", t.path("none.json")], t.path("none.json"))
    refused(t, ["--config", "/etc"], "/etc")


# ---- what others hold

@test
def tap_missing(t):
    refused(t, ["--net", "tap=vmmnone"], "'vmmnone'", "ip tuntap add")


@test
def tap_that_is_none(t):
    refused(t, ["--net", "tap=lo"], "'lo'", "tap")
    refused(t, ["--net", "tap=" + "x" * 30], "x" * 30)


@test
def tap_busy(t):
    with host.Bridge("vmmbr0", ["vmmtap0"]):
        machine = t.small("--net", "tap=vmmtap0")
        taken = subprocess.run([t.images.vmm, "--kernel", t.images.kernel, "--net", "tap=vmmtap0"], text=True,
                               capture_output=True, stdin=subprocess.DEVNULL)
        t.equal(taken.returncode, 1, "exit code")
        t.contains(taken.stderr, "'vmmtap0' is in use")
        machine.power_off()
        refused(t, ["--net", "tap=vmmtap0,queues=2"], "vmmtap0", "multi_queue")


@test
def tap_without_permission(t):
    with host.Bridge("vmmbr0", ["vmmtap0"]):
        refused(t, ["--net", "tap=vmmtap0"], "'vmmtap0'", "permission",
                prefix=["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])


@test
def descriptor_that_is_no_tap(t):
    refused(t, ["--net", "fd=77"], "descriptor 77 is not open")
    refused(t, ["--net", "fd=0"], "descriptor 0 is not a queue of a tap")


@test
def port_taken(t):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        refused(t, ["--net", f"user,hostfwd=tcp::{port}-:80"], port, "taken")
        refused(t, ["--net", f"user,hostfwd=tcp::{port}-:80", "--dry-run"], port, "taken")


@test
def control_socket_taken(t):
    machine = t.small()
    refused_while_another_runs(t, machine, ["--control", machine.control], machine.control, "in use")
    machine.ctl("status")       # it still listens
    machine.power_off()


def refused_while_another_runs(t, machine, options, *parts):
    result = subprocess.run([t.images.vmm, "--kernel", t.images.kernel, *options], text=True, capture_output=True,
                            stdin=subprocess.DEVNULL)
    t.equal(result.returncode, 1, "exit code")
    t.equal(result.stderr.count("\n"), 1, f"lines of {result.stderr!r}")
    for part in parts:
        t.contains(result.stderr, part)
    t.true(machine.alive(), "the other machine goes on")


@test
def vsock_and_serial_sockets_taken(t):
    machine = t.small("--vsock", t.path("vsock"))
    refused_while_another_runs(t, machine, ["--vsock", t.path("vsock")], t.path("vsock"), "in use")
    refused_while_another_runs(t, machine, ["--serial", f"socket:{t.path('vsock')}"], t.path("vsock"), "in use")
    machine.power_off()


@test
def stale_sockets_are_replaced_and_files_are_not(t):
    path = t.path("control")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    machine = t.small("--control", path, control=False)
    machine.power_off()
    file = t.file("precious", b"not to be lost")
    for options in (["--control", file], ["--vsock", file], ["--serial", f"socket:{file}"]):
        refused(t, options, file, "not a socket")
    with open(file, "rb") as content:
        t.equal(content.read(), b"not to be lost")


@test
def ctl_without_a_machine(t):
    for words, *parts in ([["ctl", t.path("none"), "status"], t.path("none")], [["ctl"], "vmm ctl SOCKET"],
                          [["ctl", t.path("none"), "balloon"], "SIZE is missing"],
                          [["ctl", t.path("none"), "status", "more"], "unexpected name 'more'"],
                          [["ctl", t.path("none"), "snapshot"], "DIR is missing", "snapshot DIR"],
                          [["ctl", t.path("none"), "snapshot", "a", "b"], "'b'", "snapshot DIR"],
                          [["ctl", t.path("none"), "snapshot", "a", "--lve"], "'--lve'", "'--live'"],
                          [["ctl", t.path("none"), "snapshot", "a", "--incremental"], "--incremental"],
                          [["ctl", t.path("none"), "snapshot", "a", "--incremental="], "--incremental"],
                          [["ctl", t.path("none"), "fork"], "DIR is missing", "fork DIR"],
                          [["ctl", t.path("none"), "fork", "a", "b"], "'b'", "fork DIR"],
                          [["ctl", t.path("none"), "fork", "a", "-m"], "'-m'", "'-n'"],
                          [["ctl", t.path("none"), "fork", "a", "-n"], "'-n'"],
                          [["ctl", t.path("none"), "fork", "a", "-n", "x"], "'x'", "1000"]):
        refused(t, words, *parts, words=words)


# ---- snapshots and archives

@test
def snapshot_words(t):
    for words, *parts in ([[], "ls, inspect, verify, rm, prune, merge, export, import"], [["lsit"], "'lsit'", "help snapshot"], [["verfy", "x"], "'verfy'", "'verify'"],
                          [["ls", "a", "b"], "'b'", "ls DIR"], [["inspect"], "DIR|ARCHIVE is missing", "inspect DIR|ARCHIVE"],
                          [["merge", "a"], "NEW is missing", "merge DIR NEW"], [["import", "a", ""], "an empty name"],
                          [["ls", "--jsn"], "'--jsn'", "'--json'"], [["rm", "x", "--json"], "'--json'"],
                          [["export", "a", "b", "--since"], "since"], [["export", "a", "b", "--base", "c"], "--since"]):
        refused(t, words, *parts, words=["snapshot", *words])


@test
def snapshot_that_is_none(t):
    none, text = t.path("none"), t.file("text", b"no archive\n" * 100)
    os.makedirs(t.path("empty"), exist_ok=True)
    for words, *parts in ([["ls", none], none, "No such file"], [["inspect", none], none], [["verify", none], none], [["rm", none], none],
                          [["merge", none, t.path("new")], none], [["export", none, t.path("new")], none],
                          [["import", none, t.path("new")], none], [["import", text, t.path("new")], text, "not an exported snapshot"],
                          [["inspect", text], text, "not an exported snapshot"], [["verify", t.path("empty")], "empty", "manifest"],
                          [["rm", t.path("empty")], "empty", "not a snapshot"], [["export", t.path("empty"), t.path("new")], "empty"]):
        refused(t, words, *parts, words=["snapshot", *words], files=["text", "empty"])


def golden(name="snapshot-v1.vmm"):
    return os.path.join(ROOT, "tests/data", name)


@test
def archive_truncated_and_altered(t):
    with open(golden(), "rb") as file:
        whole = file.read()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path = t.file("cut", whole[:size])
        refused(t, ["import"], path, words=["snapshot", "import", path, t.path("new")], files=["cut"])
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    path = t.file("cut", bytes(altered))
    for words in (["import", path, t.path("new")], ["verify", path]):
        refused(t, words, path, words=["snapshot", *words], files=["cut"])


@test
def archive_takes_no_name_that_is_there(t):
    there = t.file("there", b"not to be lost")
    refused(t, ["import"], there, "exists", words=["snapshot", "import", golden(), there])
    refused(t, ["export"], there, "exists", words=["snapshot", "export", golden("snapshot-v1"), there])
    with open(there, "rb") as content:
        t.equal(content.read(), b"not to be lost")


@test
def archive_goes_round(t):
    """The archive of version 1 that the repository has, unpacked, checked, packed and removed."""
    def vmm(*words):
        result = subprocess.run([t.images.vmm, "snapshot", *words], text=True, capture_output=True, stdin=subprocess.DEVNULL)
        t.equal(result.returncode, 0, f"vmm snapshot {' '.join(words)}: {result.stderr}")
        return result.stdout
    vmm("import", golden(), t.path("one"))
    t.contains(vmm("verify", t.path("one")), "whole")
    vmm("export", t.path("one"), t.path("one.vmm"))
    t.contains(vmm("verify", t.path("one.vmm")), "whole")
    t.contains(vmm("ls", t.folder), "one")
    t.equal(json.loads(vmm("inspect", t.path("one"), "--json"))["manifest"]["digest"], json.loads(vmm("ls", t.folder, "--json"))[0]["digest"])
    vmm("rm", t.path("one"))
    t.true(not os.path.exists(t.path("one")), "it is gone")


@test
def snapshot_with_a_fifo_is_refused(t):
    """Nobody writes to it: what waited for it would wait for ever."""
    for name in ("manifest.json", "state", "memory", "blk0.img"):
        saved = t.path(f"with-{name}")
        shutil.copytree(golden("snapshot-v1"), saved)
        os.remove(f"{saved}/{name}")
        os.mkfifo(f"{saved}/{name}")
        for words in (["snapshot", "ls", t.folder], ["snapshot", "verify", saved], ["--restore", saved]):
            result = subprocess.run([t.images.vmm, *words], text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
            if words[1] == "ls":
                t.equal(result.returncode, 0, result.stderr)
                continue
            t.equal(result.returncode, 1, result.stderr)
            if words[1] == "verify":  # a restore refuses another architecture first
                t.contains(result.stderr, f"{name}' is not a regular file")


@test
def prune_removes_what_killed_saves_left(t):
    for name in ("killed.partial", "mine.partial"):
        os.mkdir(t.path(name))
    t.file("killed.partial/memory", b"left")
    t.file("mine.partial/thesis", b"not to be lost")
    def vmm(*words):
        result = subprocess.run([t.images.vmm, "snapshot", *words, t.folder], text=True, capture_output=True, stdin=subprocess.DEVNULL)
        t.equal(result.returncode, 0, result.stderr)
        return result.stdout
    t.contains(vmm("ls"), "killed.partial  unfinished")
    t.equal([entry["unfinished"] for entry in json.loads(vmm("ls", "--json"))], [True])
    t.equal(vmm("prune"), "killed.partial: removed\n")
    t.true(not os.path.exists(t.path("killed.partial")), "it is gone")
    t.true(os.path.exists(t.path("mine.partial/thesis")), "it is there")
    t.equal(vmm("prune"), "")


@test
def full_disk_names_the_file(t):
    for name in ("snapshot-v1", "snapshot-v2"):
        shutil.copytree(golden(name), t.path(name))
    small = t.path("small")
    os.mkdir(small)
    on_small = in_namespace(t, f"mount -t tmpfs -o size=8k tmpfs {small}")
    mine = ["snapshot-v1", "snapshot-v2", "small"]
    refused(t, ["merge"], f"cannot write '{small}/new.partial/memory'", "No space left", prefix=on_small, files=mine,
            words=["snapshot", "merge", t.path("snapshot-v2"), f"{small}/new"])
    refused(t, ["import"], "snapshot-v1.vmm': it unpacks to", "MiB free", prefix=on_small, files=mine,
            words=["snapshot", "import", golden(), f"{small}/new"])


# ---- a start that fails late undoes what was done before

@test
def failure_of_the_last_step(t):
    """Everything opens but the console: sockets and the network process go."""
    with host.Bridge("vmmbr0", ["vmmtap0"]):
        refused(t, ["--control", t.path("control"), "--vsock", t.path("vsock"), "--net", "user", "--net", "tap=vmmtap0",
                    "--disk", t.file("disk", size=MIB), "--serial", f"file:{t.path('none')}/x"], t.path("none"), files=["disk"])
        refused(t, ["--control", t.path("control"), "--vsock", t.path("vsock"), "--net", "user", "--initrd", t.path("none")],
                t.path("none"))
