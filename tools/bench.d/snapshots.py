"""Saves and restores of the same guest by vmm and by Firecracker, for the benchmarks `save` and `restore`. The guest has one vCPU and 256 MiB
and prints a line each 5 ms; all lies in memory. vmm is asked by its client, whose start counts; Firecracker by its socket, without one."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time

import host_memory
import peers

ROUNDS = 3  # of each monitor in a repetition, in turns
GUEST = "i=0; while :; do read -t 0.005 line; i=$((i+1)); echo tick $i; done"
ROW = "next line of a guest that prints one each 5 ms"
SLOT = 64 << 20     # bytes


class Words:
    """A command, as a peer."""

    def __init__(self, *words):
        self.words = list(words)

    def command(self, guest, directory):
        return self.words


class Vmm:
    name = "vmm"

    def __init__(self, peer):
        self.peer = peer

    def original(self, guest, folder):
        return Words(*self.peer.command(guest, folder), "--control", f"{folder}/control")

    def save(self, folder, saved):
        subprocess.run([self.peer.path, "ctl", f"{folder}/control", "snapshot", saved], check=True, stdout=subprocess.DEVNULL)

    def copy(self, folder, saved):
        return Words(self.peer.path, "--restore", saved)

    def begin(self, folder, saved):
        pass

    def wake(self, running):
        pass

    def is_settled(self, saved):
        """Whether what a first restore writes down is there."""
        return os.path.exists(f"{saved}/working-set")


class VmmWithSlots(Vmm):
    """Two slots for disks, empty when it is saved and filled when it is restored."""

    def original(self, guest, folder):
        return Words(*super().original(guest, folder).words, "--disk", f"size={SLOT},ro", "--disk", f"size={SLOT}")

    def copy(self, folder, saved):
        for name in ("one", "two"):
            with open(f"{folder}/{name}", "wb") as file:
                file.truncate(SLOT)
        disks = ["--disk", f"blk0={folder}/one,format=raw", "--disk", f"blk1={folder}/two,format=raw,rw"]
        return Words(*super().copy(folder, saved).words, *disks)


class Firecracker:
    name = "firecracker"

    def __init__(self, peer):
        self.peer = peer

    def original(self, guest, folder):
        words = [word for word in self.peer.command(guest, folder) if word != "--no-api"]
        return Words(*words, "--api-sock", f"{folder}/api")

    def save(self, folder, saved):
        os.mkdir(saved)
        call(folder, "PATCH", "/vm", state="Paused")
        call(folder, "PUT", "/snapshot/create", snapshot_type="Full", snapshot_path=f"{saved}/state", mem_file_path=f"{saved}/memory")
        call(folder, "PATCH", "/vm", state="Resumed")

    def copy(self, folder, saved):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/api")
        return Words(self.peer.path, "--no-seccomp", "--api-sock", f"{folder}/api")

    def begin(self, folder, saved):
        call(folder, "PUT", "/snapshot/load", snapshot_path=f"{saved}/state", resume_vm=True,
             mem_backend={"backend_path": f"{saved}/memory", "backend_type": "File"})

    def is_settled(self, saved):
        return True

    def wake(self, running):
        """Its serial port has no state in its snapshots: a guest that was printing waits for an interrupt, and input makes one."""
        running.type("")


def call(folder, method, resource, **body):
    """A request to Firecracker; it listens soon after its start."""
    text = json.dumps(body)
    deadline = time.monotonic() + 30
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        while True:
            try:
                connection.connect(f"{folder}/api")
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise RuntimeError("Firecracker does not listen") from None
                time.sleep(0.0005)
        connection.sendall(f"{method} {resource} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        answer = connection.recv(65536).decode()
    if not answer.startswith("HTTP/1.1 204"):
        raise RuntimeError(f"Firecracker: {method} {resource}: {answer}")


def monitors(environment):
    found = {"vmm": Vmm, "firecracker": Firecracker}
    return [found[peer.name](peer) for peer in environment.peers if peer.name in found]


@contextlib.contextmanager
def folder_of_its_own():
    folder = tempfile.mkdtemp(prefix="vmm-bench-", dir="/dev/shm")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def original(environment, monitor, folder):
    guest = peers.Guest(environment.images["kernel"], environment.images["initramfs"], "vmm.run64=" + peers.encoded(GUEST))
    host_memory.forget_last_guest()
    with peers.Running(monitor.original(guest, folder), guest) as running:
        running.wait_for("tick 100")
        yield running


def saves(environment):
    for monitor in monitors(environment):
        with folder_of_its_own() as folder, original(environment, monitor, folder):
            for number in range(ROUNDS):
                began = time.monotonic()
                monitor.save(folder, f"{folder}/saved{number}")
                yield "a guest of 256 MiB, all of it", monitor.name, time.monotonic() - began
                shutil.rmtree(f"{folder}/saved{number}")


def restores(environment):
    vmm = next(peer for peer in environment.peers if peer.name == "vmm")
    with contextlib.ExitStack() as stack:
        ready = []
        for monitor, row in [*((one, ROW) for one in monitors(environment)), (VmmWithSlots(vmm), f"{ROW}, two slots filled")]:
            folder = stack.enter_context(folder_of_its_own())
            with original(environment, monitor, folder):
                monitor.save(folder, f"{folder}/saved")
            ready.append((monitor, row, folder))
            # Not counted: the emulator translates the code of a restore, and vmm writes the working set down.
            with restored(monitor, folder) as running:
                for _ in range(1000):
                    running.wait_for("tick")
                    if monitor.is_settled(f"{folder}/saved"):
                        break
        for _ in range(ROUNDS):
            for monitor, row, folder in ready:
                host_memory.forget_last_guest()
                with restored(monitor, folder) as running:
                    yield row, monitor.name, running.wait_for("tick")


@contextlib.contextmanager
def restored(monitor, folder):
    words = monitor.copy(folder, f"{folder}/saved")
    with peers.Running(words, None) as running:
        monitor.begin(folder, f"{folder}/saved")
        monitor.wake(running)
        yield running
