"""The engines whose containers are compared: vmm of the build, and Debian's podman with crun. Both keep all they have in memory, log to a
file, and give a container no network. Containers of vmm are measured twice where it knows warm starts: from a template, as they are, and
as a cold boot."""
import atexit
import contextlib
import copy
import functools
import os
import pathlib
import re
import select
import shutil
import subprocess
import tempfile
import time

import peers

PATIENCE = 300      # seconds, of what takes a few
NO_NETWORK = ("--network", "none")
SLEEP = ("sleep", "100000")


class Engine:
    """A program that runs containers, with a store of its own."""
    name = ""
    run_words = ()      # of `run`, behind it

    def __init__(self, directory):
        self.directory = os.path.join(directory, self.name)
        os.makedirs(self.directory)

    def command(self, *words):
        raise NotImplementedError

    def environment(self):
        return os.environ

    def begin(self, *words, **how):
        """The process of a command, standard output as a pipe."""
        return subprocess.Popen(self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.environment(), **how)

    def __call__(self, *words):
        """The standard output of a command that succeeds."""
        process = self.begin(*words, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise RuntimeError(f"{self.name} {' '.join(words)} does not end") from None
        if process.returncode:
            raise RuntimeError(f"{self.name} {' '.join(words)} ended with {process.returncode}: {errors.decode()[-2000:]}")
        return output.decode()

    def run(self, *words):
        """The words of a `run`."""
        return ("run", *self.run_words, *NO_NETWORK, *words)

    def seconds(self, *words):
        """How long a command takes as a whole."""
        start = time.monotonic()
        self(*words)
        return time.monotonic() - start

    def seconds_to_output(self, *words):
        """From the start of a command to its first byte; its end is waited for."""
        start = time.monotonic()
        with self.begin(*words) as process:
            if not wait_for_output([process]):
                process.kill()
                raise RuntimeError(f"{self.name} {' '.join(words)} says nothing")
            took = time.monotonic() - start
            process.stdout.read()
        return took

    def load(self, archive):
        self("load", "-q", "-i", archive)

    def remove(self, names):
        self("rm", "-f", *names)

    def remove_all(self):
        if names := self("ps", "-aq").split():
            self.remove(names)

    def end(self):
        """Nothing of it stays."""
        self.remove_all()
        shutil.rmtree(self.directory)


class Podman(Engine):
    name = "podman"

    def command(self, *words):
        # With the overlay file system, as it does by itself; a host of systemd's would have other managers of groups, logs and events.
        return ["podman", "--root", self.directory + "/storage", "--runroot", self.directory + "/run", "--tmpdir", self.directory + "/tmp",
                "--storage-driver", "overlay", "--runtime", "crun", "--cgroup-manager", "cgroupfs", "--events-backend", "file", *words]

    def run(self, *words):
        return super().run("--log-driver", "k8s-file", *words)

    def remove(self, names):
        self("rm", "-f", "-t", "0", *names)

    def end(self):
        self.remove_all()
        subprocess.run(["umount", self.directory + "/storage/overlay"], stderr=subprocess.DEVNULL, check=False)    # of its own, kept private
        shutil.rmtree(self.directory)


class Vmm(Engine):
    name = "vmm"

    def __init__(self, directory, program, machine):
        super().__init__(directory)
        self.program = program
        self.machine = os.path.join(directory, "machine")
        shutil.copytree(machine, self.machine)
        if is_emulated():
            pathlib.Path(self.machine, "append").write_text(peers.TICKING + "\n")
        self.knows_templates = "--cold" in self("run", "--help")

    def command(self, *words):
        return [self.program, *words]

    def environment(self):
        return {**os.environ, "VMM_ROOT": self.directory + "/store", "VMM_MACHINE": self.machine}

    def load(self, archive):
        self("load", "-i", archive)

    def cold(self):
        """The same with the same store, and every machine boots."""
        engine = copy.copy(self)
        engine.run_words = ("--cold",) if self.knows_templates else ()
        return engine

    def has_template(self):
        """Whether the run before left one to be made, once it is made."""
        folder = self.directory + "/store/machine/templates"
        deadline = time.monotonic() + PATIENCE
        while self.knows_templates and time.monotonic() < deadline:
            names = os.listdir(folder) if os.path.isdir(folder) else []
            if any("." not in name for name in names) and not any(name.endswith((".work", ".partial")) for name in names):
                return True
            time.sleep(0.2)
        return False


def is_emulated():
    return os.uname().nodename == "test-host"


def wait_for_output(processes, patience=PATIENCE):
    """Whether each has said something, which is read."""
    deadline = time.monotonic() + patience
    left = {process.stdout.fileno(): process.stdout for process in processes}
    while left and time.monotonic() < deadline:
        for output in select.select(list(left.values()), [], [], 1)[0]:
            if not os.read(output.fileno(), 65536):
                return False
            del left[output.fileno()]
    return not left


class Host:
    """Both engines on this host, for all repetitions; gone at the program's end."""

    def __init__(self, environment):
        self.images = environment.images
        self.directory = tempfile.mkdtemp(prefix="vmm-bench-", dir="/dev/shm")
        atexit.register(shutil.rmtree, self.directory, ignore_errors=True)
        self.vmm = Vmm(self.directory, environment.vmm, self.images["machine"])
        self.podman = Podman(self.directory)
        for engine in (self.podman, self.vmm):
            atexit.register(self.end, engine)

    @staticmethod
    def end(engine):
        with contextlib.suppress(RuntimeError):
            engine.end()

    def load(self, *names):
        for engine in (self.vmm, self.podman):
            for name in names:
                engine.load(self.images[name])

    def kinds(self):
        """{what a row begins with: its engines}: cold boots, and warm starts where vmm has a template. Each has run before."""
        cold = self.vmm.cold()
        warm = [cold, self.podman, self.vmm] if self.vmm.knows_templates else [cold, self.podman]
        for engine in warm:
            engine(*engine.run("--rm", "busybox", "true"))
        kinds = {"cold": [cold, self.podman]}
        if self.vmm.has_template():
            self.vmm(*self.vmm.run("--rm", "busybox", "true"))
            kinds["warm"] = [self.vmm, self.podman]
        else:
            print("  no template: warm starts are not measured", flush=True)
        return kinds

    def usual_kinds(self):
        """The same for what takes minutes a turn: warm starts alone, where there are such."""
        kinds = self.kinds()
        return {"warm": kinds["warm"]} if "warm" in kinds else kinds


@functools.cache
def host(environment):
    return Host(environment)


def in_turns(kinds, measure):
    """(row, peer, value) of measure(engine) -> {row: value}, called once an engine: what podman did stands beside each kind of vmm's."""
    engines = {id(engine): engine for of_kind in kinds.values() for engine in of_kind}
    measured = {key: measure(engine) for key, engine in engines.items()}
    for kind, of_kind in kinds.items():
        for engine in of_kind:
            for row, value in measured[id(engine)].items():
                yield f"{kind}: {row}", engine.name, value


def available():
    """MiB of the host's memory that nobody needs."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        return int(re.search(r"MemAvailable: +(\d+)", meminfo.read()).group(1)) / 1024


def processes():
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}


def private(pid):
    """MiB that are this process's alone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            return sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", rollup.read(), re.M)) / 1024
    except (OSError, ProcessLookupError):
        return 0    # a thread of the kernel's, or it has ended
