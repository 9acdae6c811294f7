"""What comes before the guest's first instruction, at a boot and at a restore, on this machine itself: --dry-run does all of it, and takes
it back. The kernel's part of it is told apart: KVM's own calls."""
import os
import pathlib
import re
import resource
import subprocess
import tempfile
import time

NATIVE = True
UNIT = "milliseconds, and calls"
LESS_IS_BETTER = True


def made_after(vmm, words):
    """Milliseconds from the process's start, and from main(), until the machine is made. Where KVM runs no stock guest, it is said after that."""
    begin = time.monotonic()
    with subprocess.Popen([vmm, *words, "--dry-run", "--log-level", "info"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline()
        took = time.monotonic() - begin
        process.stderr.read()
    made = re.search(r"the machine is made, ([0-9.]+) ms", said)
    if not made:
        raise SystemExit(f"bench: {said}")
    return took * 1000, float(made.group(1))


def traced(vmm, words, *how):
    """What strace says of the whole program, taking the machine apart included."""
    with tempfile.NamedTemporaryFile("r", prefix="vmm-bench-") as out:
        subprocess.run(["strace", "-f", "-qq", "-o", out.name, *how, vmm, *words, "--dry-run"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return out.read()


def start(vmm, words, what):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole, own = made_after(vmm, words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield f"{what}: process start to the machine made, ms", "vmm", whole
    yield f"{what}: of it from main() on, ms", "vmm", own
    # What strace adds to each is taken off: the time of the quickest, which does next to nothing.
    calls = [float(took) for took in re.findall(r"KVM_.*<([0-9.]+)>$", traced(vmm, words, "--seccomp-bpf", "-T", "-e", "trace=ioctl"), re.M)]
    yield f"{what}: of it in KVM's calls, ms", "vmm", (sum(calls) - len(calls) * min(calls)) * 1000
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    yield f"{what}: CPU until the program's end, ms", "vmm", cpu * 1000
    yield f"{what}: calls of KVM", "vmm", float(len(calls))
    yield f"{what}: system calls", "vmm", float(len(re.findall(r"^\d+ +\w+\(", traced(vmm, words), re.M)))


def run(environment):
    images = environment.images
    yield from start(environment.vmm, ["--kernel", images["kernel"], "--initrd", images["initramfs"], "--mem", "256M"], "boot")
    if os.uname().machine != "x86_64":
        return      # unrun_snapshot is of that processor
    maker = pathlib.Path(environment.vmm).parents[2] / "tests/bench/unrun_snapshot"
    with tempfile.TemporaryDirectory(prefix="vmm-bench-", dir="/dev/shm") as directory:
        snapshot = os.path.join(directory, "unrun")
        subprocess.run([maker, snapshot, images["kernel"], images["initramfs"]], check=True)
        yield from start(environment.vmm, ["--restore", snapshot], "restore")
