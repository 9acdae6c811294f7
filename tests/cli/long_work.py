"""What takes long says how far it is, and ends well when it is interrupted."""
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time

from harness import Skip, test
from harness.images import ROOT
from harness.terminal import Terminal

MIB = 1 << 20
CLUSTER = 64 << 10


def vmm(t, *words):
    result = subprocess.run([t.images.vmm, *words], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal((result.returncode, result.stderr), (0, ""), f"vmm {' '.join(words)}")
    return result.stdout


def endless(t, name, *more):
    """An image of 32 GiB in which all clusters lie at the same place: 4 MiB of tables, and long to read."""
    path = t.path(name)
    vmm(t, "disk", "create", path, *(more or ["32G"]))
    with open(path, "r+b") as image:
        entries, offset = l1_of(image)
        end = (os.path.getsize(path) + CLUSTER - 1) // CLUSTER * CLUSTER
        writable = 1 << 63
        data = end + entries * CLUSTER
        image.seek(offset)
        image.write(b"".join(struct.pack(">Q", end + i * CLUSTER | writable) for i in range(entries)))
        image.seek(end)
        image.write(struct.pack(">Q", data | writable) * (CLUSTER // 8 * entries))
        image.write(b"vmm " * (CLUSTER // 4))
    return path


def l1_of(image):
    """(entries, offset) of the L1 table (docs/interop/qcow2.txt)."""
    image.seek(36)
    return struct.unpack(">IQ", image.read(12))


def many_tables(t, name):
    """An image with 4096 L2 tables of 2 MiB, which are holes."""
    path = t.path(name)
    vmm(t, "disk", "create", path, "2048T", "--cluster-size", "2M")
    with open(path, "r+b") as image:
        entries, offset = l1_of(image)
        first = (os.path.getsize(path) + 2 * MIB - 1) // (2 * MIB)
        image.seek(offset)
        image.write(b"".join(struct.pack(">Q", (first + i) * 2 * MIB | 1 << 63) for i in range(entries)))
        image.truncate((first + entries) * 2 * MIB)
    return path


def snapshot(t, name, size=256 * MIB):
    """The snapshot of the repository's tests with more memory."""
    path = t.path(name)
    shutil.copytree(os.path.join(ROOT, "tests/data/snapshot-v1"), path)
    piece = os.urandom(MIB)
    digest = hashlib.sha256()
    with open(f"{path}/memory", "wb") as memory:
        for at in range(0, size, MIB):
            memory.write(piece)
            for chunk in range(0, MIB, 64 << 10):
                digest.update(struct.pack("<Q", (at + chunk) >> 16) + piece[chunk:chunk + (64 << 10)])
    with open(f"{path}/manifest.json") as file:
        manifest = json.load(file)
    manifest["memory"] = {"digest": digest.hexdigest(), "ranges": [{"address": 0, "size": size}]}
    del manifest["digest"]
    text = json.dumps(manifest, indent=2) + "\n"
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    with open(f"{path}/manifest.json", "w") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
    return path


def mounted(t, name):
    """A file system of 320 MiB that lets files share blocks, mounted under t.path(name)."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        raise Skip("mounting an XFS takes the superuser, and mkfs.xfs")
    path = t.path(name)
    os.mkdir(path)
    with open(f"{path}.img", "wb") as file:
        file.truncate(320 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", f"{path}.img"], check=True)
    done = subprocess.run(["mount", "-o", "loop", f"{path}.img", path], text=True, capture_output=True)
    if done.returncode:
        raise Skip(f"no XFS can be mounted here: {done.stderr.strip()}")
    return path


@test
def what_a_disk_and_its_copy_share_is_not_copied(t):
    folder = mounted(t, "xfs")
    try:
        raw, image, top, back = (f"{folder}/{name}" for name in ("disk.img", "disk.qcow2", "top.qcow2", "back.img"))
        content = os.urandom(80 * MIB)
        with open(raw, "wb") as file:
            file.write(content)
            file.truncate(1 << 30)
        vmm(t, "disk", "convert", raw, image)
        vmm(t, "disk", "create", top, "--backing", image, "--backing-format", "qcow2")
        os.sync()
        free = os.statvfs(folder).f_bavail
        for source in (raw, image, top):
            vmm(t, "disk", "convert", source, back, "--format", "raw")
            os.sync()
            used = (free - os.statvfs(folder).f_bavail) * os.statvfs(folder).f_frsize
            t.true(used < 4 * MIB, f"{source} and its copy share their blocks: {used >> 20} MiB more are used")
            t.equal(vmm(t, "disk", "compare", source, back).strip(), "the disks are the same")
            os.unlink(back)
    finally:
        subprocess.run(["umount", folder], check=True)


def start(t, *words):
    return subprocess.Popen([t.images.vmm, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def expect_interrupted(t, process, number, said):
    out, errors = process.communicate(timeout=60 * t.patience)
    t.equal(process.returncode, -number, f"how it ended; it said {out!r} {errors!r}")
    t.equal((out, errors), ("", f"vmm: interrupted: {said}\n"), "what it said")


def interrupt_disk_command(t, number, said, *words):
    """In the middle of work that takes minutes: when a line says how far it is."""
    before = set(os.listdir(t.folder))
    process = start(t, "disk", *words, "--progress", "plain")
    line = ""
    while not re.match(r"[a-z ]+: \d+%, .* of .*iB", line):
        line = process.stderr.readline()
        t.true(line, f"vmm disk {words[0]} says how far it is")
    process.send_signal(number)
    out, errors = process.communicate(timeout=60 * t.patience)
    t.equal(process.returncode, -number, f"how it ended; it said {out!r} {errors!r}")
    t.true(errors.endswith(f"vmm: interrupted: {said}\n"), f"it says so: {errors!r}")
    t.equal(set(os.listdir(t.folder)), before, "the files")


@test
def disk_convert_is_interrupted(t):
    source, target = endless(t, "source"), t.path("target")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        interrupt_disk_command(t, number, f"'{target}' was not created", "convert", source, target, "--compress", "zlib")


@test
def disk_compare_is_interrupted(t):
    one = endless(t, "one")
    shutil.copy(one, t.path("two"))
    interrupt_disk_command(t, signal.SIGINT, "the disks were not compared to their ends", "compare", one, t.path("two"))


@test
def disk_rebase_is_interrupted(t):
    one, image = endless(t, "one"), t.path("image")
    shutil.copy(one, t.path("two"))
    vmm(t, "disk", "create", image, "--backing", "one")
    interrupt_disk_command(t, signal.SIGTERM, f"'{image}' has its old backing file and reads as before", "rebase", image, "two")
    t.contains(vmm(t, "disk", "info", image), one)
    t.contains(vmm(t, "disk", "check", image), "no errors")


@test
def disk_commit_is_interrupted(t):
    base = t.file("base", size=32 << 30)
    image = endless(t, "image", "--backing", "base", "--backing-format", "raw")
    interrupt_disk_command(t, signal.SIGINT, f"'{image}' reads as before, with a part of it in its backing file already; "
                           f"`vmm disk commit {image}` does the rest", "commit", image)
    with open(base, "rb") as file:
        t.equal(file.read(8), b"vmm vmm ", "what was committed")
    with open(image, "rb") as file:
        t.equal(file.seek(-CLUSTER, os.SEEK_END) and file.read(8), b"vmm vmm ", "what the image still has")


@test
def disk_check_is_interrupted(t):
    path = many_tables(t, "image")
    interrupt_disk_command(t, signal.SIGINT, f"'{path}' was not checked to its end", "check", path)


def interrupt_snapshot_command(t, number, said, has_begun, *words):
    """As soon as it has begun; what is faster than this test is tried again."""
    before = set(os.listdir(t.folder))
    for _ in range(5):
        process = start(t, "snapshot", *words)
        while process.poll() is None and not has_begun(process):
            time.sleep(0.0002)
        process.send_signal(number)
        process.wait(timeout=60 * t.patience)
        if process.returncode != 0:
            break
        process.communicate()
        for made in set(os.listdir(t.folder)) - before:
            subprocess.run(["rm", "-r", t.path(made)], check=True)
    expect_interrupted(t, process, number, said)
    t.equal(set(os.listdir(t.folder)), before, "the files")


def reads_memory(process):
    try:
        return any(os.path.basename(os.readlink(f"/proc/{process.pid}/fd/{fd}")) == "memory" for fd in os.listdir(f"/proc/{process.pid}/fd"))
    except OSError:     # closed, or ended, meanwhile
        return False


@test
def snapshot_commands_are_interrupted(t):
    saved, made = snapshot(t, "saved"), t.path("made")
    said = f"'{made}' was not created"
    vmm(t, "snapshot", "export", saved, t.path("saved.vmm"))

    def makes_it(_):
        return os.path.exists(f"{made}.partial")
    interrupt_snapshot_command(t, signal.SIGINT, said, makes_it, "export", saved, made)
    interrupt_snapshot_command(t, signal.SIGTERM, said, makes_it, "import", t.path("saved.vmm"), made)
    interrupt_snapshot_command(t, signal.SIGHUP, said, makes_it, "merge", saved, made)
    interrupt_snapshot_command(t, signal.SIGINT, f"'{saved}' was not read to its end", reads_memory, "verify", saved)


# ---- on a terminal

@test
def a_terminal_shows_a_bar(t):
    terminal = Terminal(t.images.vmm, "disk", "convert", endless(t, "source"), t.path("target"), "--compress", "zlib")
    while not re.search(r"converting.*\d+%.*left", terminal.text):
        t.true(terminal.read(60 * t.patience), f"there is a bar: {terminal.text!r}")
    os.write(terminal.fd, b"\x03")
    while terminal.read(60 * t.patience):
        pass
    t.equal(terminal.end(), -signal.SIGINT, "how it ended")
    bars, clear, last = terminal.text.rpartition("\r\x1b[K")
    t.true(clear, f"the bar is removed: {terminal.text!r}")
    t.equal(last, f"vmm: interrupted: '{t.path('target')}' was not created\r\n", "what stays")
    for line in bars.split("\r")[1:]:
        t.true(len(line.replace("^C", "").removesuffix("\x1b[K")) < 60, f"{line!r} fits in 60 columns")
    t.equal(os.listdir(t.folder), ["source"], "the files")


@test
def quick_or_unseen_work_says_nothing(t):
    source = t.file("source", b"x", size=MIB)
    terminal = Terminal(t.images.vmm, "disk", "convert", source, t.path("one"))
    while terminal.read(60 * t.patience):
        pass
    t.equal((terminal.end(), terminal.text), (0, ""), "quick work on a terminal")
    process = start(t, "disk", "convert", endless(t, "long"), t.path("two"), "--compress", "zlib")
    while not os.path.exists(t.path("two.partial")):
        t.true(process.poll() is None, "it works")
        time.sleep(0.01)
    time.sleep(1)
    process.terminate()
    expect_interrupted(t, process, signal.SIGTERM, f"'{t.path('two')}' was not created")
    refused = subprocess.run([t.images.vmm, "disk", "check", source, "--progress", "plane"], text=True, capture_output=True)
    t.equal((refused.returncode, refused.stderr), (1, "vmm: --progress: invalid value 'plane' (did you mean 'plain'?): expected auto, plain or none\n"))
