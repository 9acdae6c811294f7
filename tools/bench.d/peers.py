"""The monitors that are compared, each as one class with the same few methods.

A guest is described once (Guest) and every monitor turns it into its own command, so that all of
them boot the same kernel with the same words, memory and disks.
"""
import base64
import json
import os
import pathlib
import platform
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

# What every peer's kernel is told, so that none waits for devices that it does not have. vmm adds
# the same words by itself.
ARCHITECTURE = platform.machine()
QUICK_WORDS = {
    "x86_64": "quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on "
              "8250.nr_uarts=1 console=ttyS0",
    "aarch64": "quiet panic=-1 cryptomgr.notests random.trust_cpu=on console=ttyAMA0",
}[ARCHITECTURE]
QEMU_MACHINE = {
    "x86_64": ["qemu-system-x86_64", "-M", "microvm,acpi=on,rtc=on"],
    "aarch64": ["qemu-system-aarch64", "-M", "virt,gic-version=host"],
}[ARCHITECTURE]
# microvm has virtio-mmio alone; on virt PCI is usual, and keeps the order of the disks.
QEMU_BUS = {"x86_64": "device", "aarch64": "pci"}[ARCHITECTURE]
QEMU_NET = {"x86_64": "virtio-net-device", "aarch64": "virtio-net-pci,romfile="}[ARCHITECTURE]
RESET = {"x86_64": " reboot=t", "aarch64": ""}[ARCHITECTURE]


# For guests that stay up, of every peer: an emulated host loses the wake-up of an idle guest now and then, which the next tick repairs.
# A boot does not idle, and is measured without it.
TICKING = "nohz=off"


def encoded(command):
    """For the word vmm.run64 of the test initramfs."""
    return base64.b64encode(command.encode()).decode()


@dataclass
class Guest:
    kernel: str
    initrd: str = ""
    words: str = ""
    memory: int = 256  # MiB
    cpus: int = 1
    disks: list = field(default_factory=list)  # paths; the first one is the root
    tap: str = ""
    user_forward: tuple = ()  # (host port, guest port), both TCP
    balloon: bool = False
    unpacked: str = ""  # the same kernel for a monitor that takes no bzImage


class Vmm:
    name = "vmm"

    def __init__(self, path):
        self.path = path

    def command(self, guest, directory):
        command = [self.path, "--kernel", guest.kernel, "--mem", f"{guest.memory}M"]
        command += ["--cpus", str(guest.cpus), "--append", guest.words]
        if guest.initrd:
            command += ["--initrd", guest.initrd]
        for disk in guest.disks:
            command += ["--disk", disk]
        if guest.tap:
            command += ["--net", f"tap={guest.tap}"]
        if guest.user_forward:
            command += ["--net", "user,loopback=on,hostfwd=tcp::{}-:{}".format(*guest.user_forward)]
        if guest.balloon:
            command += ["--balloon"]
        return command


class Qemu:
    name = "qemu"

    def command(self, guest, directory):
        words = QUICK_WORDS + (" root=/dev/vda rw " if guest.disks else " ") + guest.words
        command = [*QEMU_MACHINE, "-enable-kvm"]
        command += ["-cpu", "host", "-m", f"{guest.memory}M", "-smp", str(guest.cpus)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-serial", "stdio", "-kernel", guest.kernel, "-append", words + RESET]
        if guest.initrd:
            command += ["-initrd", guest.initrd]
        for number, disk in enumerate(guest.disks):
            command += ["-object", f"iothread,id=io{number}"]
            command += ["-drive", f"id=d{number},file={disk},format=raw,if=none,aio=io_uring"]
            command += ["-device", f"virtio-blk-{QEMU_BUS},drive=d{number},iothread=io{number}"]
        if guest.tap:
            command += ["-netdev", f"tap,id=n,ifname={guest.tap},script=no,downscript=no,vhost=on"]
            command += ["-device", f"{QEMU_NET},netdev=n"]
        if guest.user_forward:
            forward = "hostfwd=tcp:127.0.0.1:{}-:{}".format(*guest.user_forward)
            command += ["-netdev", f"user,id=n,{forward}", "-device", f"{QEMU_NET},netdev=n"]
        if guest.balloon:
            command += ["-device", f"virtio-balloon-{QEMU_BUS},free-page-reporting=on"]
        return command


class Firecracker:
    name = "firecracker"

    def __init__(self, path):
        self.path = path

    def command(self, guest, directory):
        words = QUICK_WORDS + " reboot=k " + guest.words
        config = {
            "boot-source": {"kernel_image_path": guest.unpacked or guest.kernel, "boot_args": words},
            "drives": [
                {"drive_id": f"d{n}", "path_on_host": disk, "is_root_device": n == 0,
                 "is_read_only": False}
                for n, disk in enumerate(guest.disks)
            ],
            "machine-config": {"vcpu_count": guest.cpus, "mem_size_mib": guest.memory},
        }
        if guest.initrd:
            config["boot-source"]["initrd_path"] = guest.initrd
        if guest.tap:
            config["network-interfaces"] = [{"iface_id": "n", "host_dev_name": guest.tap}]
        if guest.balloon:
            config["balloon"] = {"amount_mib": 0, "deflate_on_oom": True,
                                 "free_page_reporting": True}
        path = pathlib.Path(directory) / "firecracker.json"
        path.write_text(json.dumps(config))
        # vmm has no filters yet, either.
        return [self.path, "--no-seccomp", "--no-api", "--config-file", str(path)]


def peers(vmm):
    """vmm first, then what is there to compare it with."""
    found = [Vmm(vmm), Qemu()]
    if os.environ.get("FIRECRACKER"):
        found.append(Firecracker(os.environ["FIRECRACKER"]))
    return found


class Running:
    """A monitor with its console; ended and reaped on exit."""

    def __init__(self, peer, guest):
        self.directory = tempfile.TemporaryDirectory(prefix="vmm-bench-")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            peer.command(guest, self.directory.name),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self.seen = b""
        self.consumed = 0  # bytes of `seen` that wait_for() is past

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.directory.cleanup()

    def wait_for(self, text, patience=120):
        """Seconds from the start of the process until the console said `text`."""
        wanted = text.encode()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            at = self.seen.find(wanted, self.consumed)
            if at >= 0:
                self.consumed = at + len(wanted)
                return time.monotonic() - self.started
            if not select.select([self.process.stdout], [], [], 1)[0]:
                continue
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self.seen += data
        tail = self.seen[-2000:].decode(errors="replace")
        raise RuntimeError(f"the console does not say '{text}': {tail}")

    def type(self, line):
        os.write(self.process.stdin.fileno(), line.encode() + b"\n")

    def wait_end(self, patience=60):
        """Seconds from the start of the process to its end."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if select.select([self.process.stdout], [], [], 1)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    break
                self.seen += data
        self.process.wait(timeout=patience)
        return time.monotonic() - self.started
