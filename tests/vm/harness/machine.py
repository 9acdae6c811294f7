"""A running vmm: its process, console and control socket."""
import json
import os
import signal
import subprocess
import time

from . import host
from .console import Console
from .suite import Failure


def with_ticks(options):
    """The emulated processor (QEMU's SVM) forgets at VMRUN that interrupts are held back behind `sti`. A timer's interrupt
    then comes between `sti` and `hlt`, and an idle vCPU sleeps over what it was woken for, until the next interrupt:
    minutes later, where idle vCPUs have no ticks. So they have some there."""
    options = [str(option) for option in options]
    if not host.is_emulated() or "--kernel" not in options or "--restore" in options:
        return options
    if "--append" not in options:
        return [*options, "--append", "nohz=off"]
    at = options.index("--append") + 1
    if "nohz=off" in options[at].split():
        return options
    return [*options[:at], f"nohz=off {options[at]}", *options[at + 1:]]


class Machine:
    """Machine(t, "--kernel", ...): starts vmm. The console is its standard streams, as pipes,
    unless `console` is False; what it says on standard error is in errors()."""

    def __init__(self, t, *options, console=True, control=True, env=None, program=None, prefix=()):
        self.t = t
        self.name = f"machine{len(t.machines)}"
        self.control = t.path(f"{self.name}.ctl") if control else None
        command = [*prefix, program or t.images.vmm, *with_ticks(options)]
        if control:
            command += ["--control", self.control]
        self.command = command
        self._errors = open(t.path(f"{self.name}.stderr"), "w+")
        streams = subprocess.PIPE if console is True else subprocess.DEVNULL
        # A session of its own: a signal for us is not one for the guest.
        self.process = subprocess.Popen(command, stdin=streams, stdout=streams, stderr=self._errors,
                                        env={**os.environ, **(env or {})}, start_new_session=True)
        self.pid = self.process.pid
        self.console = None
        t.machines.append(self)
        if console is True:
            self.attach(os.dup(self.process.stdout.fileno()), os.dup(self.process.stdin.fileno()))
            self.process.stdout.close()
            self.process.stdin.close()

    def attach(self, read_fd, write_fd):
        self.console = Console(read_fd, write_fd, self.alive, self.t.patience)
        return self.console

    def alive(self):
        return self.process.poll() is None

    def errors(self):
        with open(self._errors.name) as file:    # after end(), too
            return file.read()

    def wait(self, timeout=60):
        """The exit code."""
        try:
            code = self.process.wait(timeout * self.t.patience)
        except subprocess.TimeoutExpired:
            raise Failure(f"vmm does not end; {self.describe()}") from None
        if self.console:
            self.console.wait_for_end()
        return code

    def ends(self, code, timeout=60):
        """Waits for the end and checks the exit code; what vmm said on standard error."""
        got = self.wait(timeout)
        if got != code:
            raise Failure(f"vmm ended with {got}, not {code}; {self.describe()}")
        return self.errors()

    def describe(self):
        text = f"its errors: {self.errors().strip() or 'none'}"
        if self.alive() and self.control:
            text += f"; its vCPUs' exits: {self._exits()}"
            time.sleep(1)
            text += f", a second later: {self._exits()}"
        if self.console:
            text += f"; its guest printed last:\n{self.console.tail()}"
        return text

    def _exits(self):
        try:
            answer = subprocess.run([self.t.images.vmm, "ctl", self.control, "metrics"], text=True, capture_output=True,
                                    timeout=5 * self.t.patience)
        except subprocess.TimeoutExpired:
            return "no answer"
        return json.loads(answer.stdout)["vcpus"] if answer.returncode == 0 else answer.stderr.strip()

    # ---- control

    def ctl(self, *words, code=0):
        """Runs `vmm ctl`; the answer, from JSON if it is."""
        result = subprocess.run([self.t.images.vmm, "ctl", self.control, *words], text=True,
                                capture_output=True, timeout=60 * self.t.patience)
        if result.returncode != code:
            raise Failure(f"vmm ctl {' '.join(words)} ended with {result.returncode}, not {code}: "
                          f"{result.stderr.strip()}")
        if code:
            return result.stderr.strip()
        return json.loads(result.stdout) if result.stdout.strip() else None

    def metrics(self, device=None):
        metrics = self.ctl("metrics")
        return metrics["devices"][device] if device else metrics

    def run(self, command, **how):
        return self.console.run(command, **how)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def power_off(self):
        """Ends a guest at once, through its own ACPI."""
        self.console.send("sync; echo o >/proc/sysrq-trigger; sleep 60\n")
        return self.ends(0)

    def children(self):
        """Processes that vmm started (the network's)."""
        return host.children(self.pid)

    def end(self):
        """For the harness: nothing of it runs after this."""
        if self.alive():
            self.process.kill()
        self.process.wait()
        if self.console:
            self.console.close()
        self._errors.close()


def eventually(condition, timeout, what, patience=1.0, every=0.05):
    """Waits until condition() holds; its value."""
    deadline = time.monotonic() + timeout * patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {timeout * patience:.0f} s")
        time.sleep(every)
