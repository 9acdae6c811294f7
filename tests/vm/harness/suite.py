"""Tests, how they are found and run, and what each of them is given."""
import base64
import json
import os
import shutil
import subprocess
import sys
import time
import traceback

TESTS = []          # in the order of their definition


class Failure(Exception):
    """A check did not hold. The text says what was found and what should be."""


class Skip(Exception):
    """The test cannot run here; the text is the reason."""


def referred_disks(directory):
    if not os.path.isdir(directory):
        return []
    with open(os.path.join(directory, "manifest.json")) as file:
        disks = json.load(file)["disks"]
    return [word for disk in disks if not disk.get("file")
            for word in ("--disk", f"{disk['device']}={disk['path']},format=raw")]


class Test:
    def __init__(self, function, folder, name, only):
        self.function, self.folder, self.name, self.only = function, folder, name, only

    def full_name(self, group, architecture):
        """GROUP.MODULE.FUNCTION, or None if it is not of that group, or not for that architecture."""
        if self.folder != ("cli" if group == "cli" else "vm") or self.only not in (None, architecture):
            return None
        return f"{group}.{self.name}"


def test(function=None, *, only=None):
    """Marks a function as a test; `only`: of hosts of that architecture."""
    if function is None:
        return lambda marked: test(marked, only=only)
    path = os.path.abspath(function.__code__.co_filename)
    module = os.path.splitext(os.path.basename(path))[0]
    one = Test(function, os.path.basename(os.path.dirname(path)), f"{module}.{function.__name__}", only)
    if any((other.folder, other.name) == (one.folder, one.name) for other in TESTS):
        raise ValueError(f"two tests are named {one.name}: the second hides the first")
    TESTS.append(one)
    return function


class Context:
    """What a test is given: checks, a folder of its own, machines."""

    def __init__(self, name, images, work, patience):
        self.name, self.images, self.patience = name, images, patience
        self.folder = os.path.join(work, name)
        os.makedirs(self.folder)
        self.machines = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def file(self, name, content=b"", size=None):
        """A file with content, or sparse with a size; its path."""
        with open(self.path(name), "wb") as out:
            out.write(content)
            if size is not None:
                out.truncate(size)
        return self.path(name)

    # ---- checks

    def equal(self, got, wanted, what=""):
        if got != wanted:
            raise Failure(f"{what + ': ' if what else ''}{got!r} instead of {wanted!r}")

    def true(self, condition, what):
        if not condition:
            raise Failure(what)

    def contains(self, text, part, what=""):
        if part not in text:
            raise Failure(f"{what + ': ' if what else ''}there is no {part!r} in {text!r}")

    def between(self, value, low, high, what):
        if not low <= value <= high:
            raise Failure(f"{what} is {value}, not {low} to {high}")

    def eventually(self, condition, timeout, what, every=0.05):
        from .machine import eventually
        return eventually(condition, timeout, what, self.patience, every)

    # ---- machines

    def machine(self, *options, **how):
        from .machine import Machine
        return Machine(self, *options, **how)

    def small(self, *options, run=None, append="", mem="256M", cpus=1, kernel=None, **how):
        """Debian's cloud kernel with the test initramfs, which runs a command and powers off; without one,
        its console is ready for run()."""
        from .console import SERVE
        from .machine import Machine
        word = base64.b64encode((run or SERVE).encode()).decode()
        machine = Machine(self, "--kernel", kernel or self.images.kernel, "--initrd", self.images.initramfs,
                          "--append", f"{append} vmm.run64={word}".strip(), "--mem", mem, "--cpus", cpus,
                          *options, **how)
        if run is None and machine.console:
            machine.console.expect("vmm-guest: init up")
            machine.run("true")
        return machine

    def restore(self, directory, *options, **how):
        """A machine that goes on from a snapshot of one whose console is served: ready for run(). Read-only disks that the
        snapshot only refers to are named, as raw ones."""
        from .machine import Machine
        machine = Machine(self, "--restore", directory, *referred_disks(directory), *options, **how)
        if machine.console and "--paused" not in options:
            machine.run("true")
        return machine

    def resume(self, directory, *options, **how):
        """The machine of a snapshot again: ready for run()."""
        from .machine import Machine
        machine = Machine(self, "--resume", directory, *options, **how)
        machine.run("true")
        return machine

    def shell(self, *options, disk=None, mem="384M", cpus=1, append="", **how):
        """Debian's cloud kernel on the Debian root, with a shell as its first process: Debian's programs
        in the guest without the half minute of its boot. The root is read-only."""
        from .machine import Machine
        machine = Machine(self, *self.kernel_with_drivers(), "--disk", disk or f"{self.images.root},ro",
                          "--append", f"init=/bin/sh {append}".strip(), "--mem", mem, "--cpus", cpus, *options, **how)
        machine.console.expect("# ")
        machine.console.serve()
        machine.run("for at in /tmp /run /dev/shm; do mount -t tmpfs tmpfs $at; done; ip link set lo up")
        return machine

    def kernel_with_drivers(self):
        """The kernel, and the initramfs that loads the drivers of what the machine has and mounts its root."""
        return "--kernel", self.images.kernel, "--initrd", self.images.initramfs

    def debian(self, *options, kernel=None, disk=None, mem="512M", cpus=1, login=True, **how):
        """Debian from a fresh copy of the root image, booted to its login prompt and logged in.
        kernel: the words that name it, instead of the usual ones."""
        from .machine import Machine
        if disk is None:
            disk = self.path("root.img")
            subprocess.run(["cp", "--sparse=always", self.images.root, disk], check=True)
        machine = Machine(self, *(kernel or self.kernel_with_drivers()), "--disk", disk, "--mem", mem,
                          "--cpus", cpus, *options, **how)
        if login:
            self.log_in(machine)
        return machine

    def log_in(self, machine, timeout=180):
        machine.console.expect(r"login: ", timeout)
        machine.console.send("root\n")
        machine.console.expect(r"# ", timeout)
        machine.console.serve()

    # ---- the end

    def close(self):
        """Ends what runs. What a test left behind."""
        from . import host
        left = []
        for machine in self.machines:
            machine.end()
        # A machine that was killed had no chance to remove its sockets.
        killed = any(machine.process.returncode < 0 for machine in self.machines)
        deadline = time.monotonic() + 5
        while host.machine_processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid, name in host.machine_processes().items():
            left.append(f"process {pid} ({name})")
        for folder, _, files in os.walk(self.folder):
            for name in files:
                if not killed and is_socket(os.path.join(folder, name)):
                    left.append(f"socket {name}")
        return left


def is_socket(path):
    import stat
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def run_one(name, one, images, work, patience):
    """(result, detail, seconds) of one test: "ok", "skipped" or "FAILED"."""
    from . import host
    begin, links = time.monotonic(), host.links()
    context = Context(name, images, work, patience)
    result, detail = "ok", ""
    try:
        one.function(context)
    except Skip as skip:
        result, detail = "skipped", f": {skip}"
    except Failure as failure:
        result, detail = "FAILED", str(failure)
    except Exception:   # a mistake in the test itself, or a host's command that failed
        result, detail = "FAILED", traceback.format_exc()
    if result == "FAILED":
        for machine in context.machines:
            detail += f"\n{' '.join(machine.command)}\n{machine.describe()}"
    left = context.close()
    left += [f"network device {link}" for link in host.links() - links]
    if left and result != "FAILED":
        result, detail = "FAILED", f"left behind: {', '.join(left)}"
    shutil.rmtree(context.folder)
    return result, detail, time.monotonic() - begin


def run_tests(tests, images, work, patience=1.0, out=sys.stdout):
    """Runs the tests, each with its name, one line each: `ok NAME SECONDS`, `FAILED ...` or `skipped NAME: reason`."""
    failed = 0
    for name, one in tests:
        result, detail, seconds = run_one(name, one, images, work, patience)
        if result == "FAILED":
            failed += 1
            for line in detail.splitlines():
                print(f"    {line}", file=out)
            print(f"FAILED {name} ({seconds:.1f} s)", file=out, flush=True)
        elif result == "skipped":
            print(f"skipped {name}{detail}", file=out, flush=True)
        else:
            print(f"ok {name} ({seconds:.1f} s)", file=out, flush=True)
    return failed
