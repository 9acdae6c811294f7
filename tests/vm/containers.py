"""Containers that are machines, by the commands that a person types."""
import os
import socket
import subprocess

from harness import host, test

SMALL = ("-m", "192m", "--cpus", "1")


class Engine:
    """The program with a store of its own, and the machine files of the tests."""

    def __init__(self, t):
        self.t = t
        machine = t.path("machine")
        os.makedirs(machine)
        os.symlink(t.images.kernel, os.path.join(machine, "kernel"))
        os.symlink(t.images.agent, os.path.join(machine, "initramfs"))
        if host.is_emulated():      # idle vCPUs sleep over their timers there (harness/machine.py)
            with open(os.path.join(machine, "append"), "w") as file:
                file.write("nohz=off\n")
        self.environment = {**os.environ, "VMM_ROOT": t.path("store"), "VMM_MACHINE": machine}

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
def run_and_its_exit_codes(t):
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        t.equal(vmm("run", "--rm", *SMALL, "busybox", "echo", "hi"), "hi\n")
        t.equal(vmm("ps", "-aq"), "", "removed")
        script = "echo out; echo err >&2; cat /proc/1/comm; hostname; cat; exit 7"
        output = vmm("run", "-i", "--name", "one", "-h", "box", *SMALL, "busybox", "sh", "-c", script, code=7, error="err\n", input="typed")
        t.equal(output, "out\nsh\nbox\ntyped")
        t.equal(vmm("logs", "one", error="err\n"), "out\nsh\nbox\ntyped")
        t.contains(vmm("ps", "-a"), "Exited (7)")
        # What it wrote is there after a start.
        vmm("run", "--name", "kept", *SMALL, "busybox", "sh", "-c", "cat /kept || echo written >/kept", error="can't open")
        t.equal(vmm("start", "-a", "kept"), "written\n")
        vmm("run", "--rm", *SMALL, "busybox", "nonesuch", code=127, error='exec: "nonesuch": executable file not found in $PATH')
    finally:
        vmm.end()


@test(only="x86_64")
def in_the_background(t):
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        name = vmm("run", "-d", "--name", "web", *SMALL, "busybox", "sleep", "1000").strip()
        t.equal(vmm("ps", "-q", "--no-trunc").strip(), name)
        t.equal(vmm("exec", "web", "cat", "/proc/1/comm"), "sleep\n")
        t.equal(vmm("exec", "-i", "-e", "A=b", "-w", "/tmp", "-u", "nobody", "web", "sh", "-c", "cat; pwd; echo $A; id -u",
                    input="in\n"), "in\n/tmp\nb\n65534\n")
        vmm("exec", "web", "sh", "-c", "exit 3", code=3)
        t.equal(vmm("exec", "web", "ip", "-4", "addr", "show", "eth0").split("inet ")[1].split()[0], "10.0.2.15/24")
        t.equal(vmm("stop", "-t", "1", "web"), "web\n")     # PID 1 without a handler: SIGKILL after a second
        t.equal(vmm("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"), "exited 137\n")
        t.equal(vmm("start", "web"), "web\n")
        t.equal(vmm("rm", "-f", "web"), "web\n")
        t.equal(vmm("ps", "-aq"), "")
    finally:
        vmm.end()


@test(only="x86_64")
def ports_a_terminal_and_a_pause(t):
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        serve = "while :; do echo served | nc -l -p 80; done"
        vmm("run", "-d", "--name", "web", "-t", "-p", "127.0.0.1::80", *SMALL, "busybox", "sh", "-c", f"tty; {serve}")
        number = int(vmm("port", "web", "80").strip().rsplit(":", 1)[1])

        def served():
            try:
                with socket.create_connection(("127.0.0.1", number), 10 * t.patience) as client:
                    return client.makefile().read() == "served\n"
            except OSError:
                return False
        t.eventually(served, 30, "the published port is reached")
        t.equal(vmm("logs", "web").splitlines()[0], "/dev/pts/0")
        t.contains(vmm("top", "web"), "sh -c tty")
        memory = vmm("stats", "--no-stream", "--format", "{{.MemUsage}}").strip()
        t.true(memory.endswith(" / 192MiB"), memory)
        vmm("pause", "web")
        t.contains(vmm("ps"), "(Paused)")
        vmm("unpause", "web")
        t.eventually(served, 30, "it goes on")
    finally:
        vmm.end()
