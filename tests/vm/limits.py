"""Containers that take more than there is: memory, processes."""
import os
import subprocess

from harness import host, test

SMALL = ("-m", "64m", "--cpus", "1")


class Engine:
    """The program with a store of its own, and the machine files of the tests."""

    def __init__(self, t, store=None):
        self.t = t
        machine = t.path("machine")
        os.makedirs(machine)
        os.symlink(t.images.kernel, os.path.join(machine, "kernel"))
        os.symlink(t.images.agent, os.path.join(machine, "initramfs"))
        if host.is_emulated():      # idle vCPUs sleep over their timers there (harness/machine.py)
            with open(os.path.join(machine, "append"), "w") as file:
                file.write("nohz=off\n")
        self.environment = {**os.environ, "VMM_ROOT": store or t.path("store"), "VMM_MACHINE": machine}

    def command(self, *words, **how):
        return subprocess.Popen([self.t.images.vmm, *words], text=True, env=self.environment, stdin=how.pop("stdin", subprocess.DEVNULL),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)

    def __call__(self, *words, code=0, error=None, input=None, seconds=60):
        """Standard output; the exit code and what is on standard error are checked."""
        process = self.command(*words, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE)
        try:
            output, errors = process.communicate(input, timeout=seconds * self.t.patience)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            self.t.true(False, f"vmm {' '.join(words)} does not end: {output!r} {errors!r}")
        self.t.equal(process.returncode, code, f"vmm {' '.join(words)}: {output!r} {errors!r}")
        if error is not None:
            self.t.contains(errors, error)
        elif code == 0:
            self.t.equal(errors, "", f"standard error of vmm {' '.join(words)}")
        return output

    def end(self):
        names = self("ps", "-aq").split()
        if names:
            self("rm", "-f", *names)


@test(only="x86_64")
def more_memory_than_it_may_have(t):
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm("run", "--name", "first", *SMALL, "busybox", "tail", "/dev/zero", code=137)
        state = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}"
        t.equal(vmm("inspect", "-f", state, "first"), "exited 137 true\n")
        # Of another process than the first one: the container goes on.
        vmm("run", "-d", "--name", "beside", *SMALL, "busybox", "sleep", "1000")
        vmm("exec", "beside", "tail", "/dev/zero", code=137)
        t.equal(vmm("exec", "beside", "cat", "/proc/1/comm"), "sleep\n")
    finally:
        vmm.end()


@test(only="x86_64")
def more_processes_than_it_may_have(t):
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        bomb = "bomb() { bomb | bomb & }; (bomb) 2>/dev/null; exec sleep 1000"
        vmm("run", "-d", "--name", "bomb", "--pids-limit", "40", *SMALL, "busybox", "sh", "-c", bomb)
        number = "{{.PIDs}}"
        t.eventually(lambda: int(vmm("stats", "--no-stream", "--format", number, "bomb")) > 1, 60, "it forks")
        for _ in range(3):
            t.between(int(vmm("stats", "--no-stream", "--format", number, "bomb")), 1, 40, "processes")
        t.equal(vmm("stop", "-t", "1", "bomb"), "bomb\n")
        t.equal(vmm("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "bomb"), "exited 137\n")
    finally:
        vmm.end()
