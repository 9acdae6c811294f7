"""Containers that are machines, as a person handles them: by commands."""
import os
import subprocess

from . import host

warmed = set()      # sizes of machines that have a template
SIZE = ("-m", "256m", "--cpus", "1")    # one, so that one template serves all


def processes_called(name):
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/comm") as file:
                if file.read() == name + "\n":
                    found.append(int(process))
        except OSError:
            pass    # it has ended
    return found


class Engine:
    """The program with a store of its own, and the machine files of the tests. Of templates, which all stores share, each kind of
    machine is made once."""

    def __init__(self, t, way="warm", store=None):
        self.t, self.way = t, way
        store = store or t.path("store")
        # Deeper than an address of a Unix socket is long, as a home may be.
        self.templates = t.images.shared(os.path.join("templates", "of-a-user-whose-home-is-deep-" * 4))
        os.makedirs(os.path.join(store, "machine"), exist_ok=True)
        if not os.path.lexists(os.path.join(store, "machine/templates")):
            os.symlink(self.templates, os.path.join(store, "machine/templates"))
        machine = t.path("machine")
        os.makedirs(machine)
        os.symlink(t.images.kernel, os.path.join(machine, "kernel"))
        os.symlink(t.images.agent, os.path.join(machine, "initramfs"))
        if host.is_emulated():      # idle vCPUs sleep over their timers there (harness/machine.py)
            with open(os.path.join(machine, "append"), "w") as file:
                file.write("nohz=off\n")
        self.environment = {**os.environ, "VMM_ROOT": store, "VMM_MACHINE": machine}

    def command(self, *words, **how):
        if self.way == "cold" and words[0] in ("run", "create"):
            words = (words[0], "--cold", *words[1:])
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

    def errors(self, *words):
        """Standard error of a command that succeeds."""
        process = self.command(*words)
        errors = process.communicate(timeout=60 * self.t.patience)[1]
        self.t.equal(process.returncode, 0, f"vmm {' '.join(words)}: {errors!r}")
        return errors

    def names_of_templates(self):
        return {name for name in os.listdir(self.templates) if "." not in name}

    def warm_up(self, *command, size=SIZE):
        """The first run of a kind of machine boots, and its template is made beside it."""
        if self.way == "cold" or size in warmed:
            return
        before = self.names_of_templates()
        self("run", "--rm", *size, *command)
        self.t.eventually(lambda: self.names_of_templates() - before, 120, f"a template of {size}", every=0.25)
        warmed.add(size)

    def machines_in(self, folder):
        """The words of machines whose processes work in it, or below."""
        found = []
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{process}/cwd").startswith(folder) and os.readlink(f"/proc/{process}/exe").endswith("/vmm"):
                    with open(f"/proc/{process}/cmdline") as file:
                        found.append(file.read().split("\0"))
            except OSError:
                pass    # it has ended, or is the kernel's
        return found

    def machines_of_templates(self):
        return self.machines_in(os.path.realpath(self.templates))

    def started_by(self, name):
        """How the machine of a running container began."""
        (words,) = self.machines_in(os.path.join(self.environment["VMM_ROOT"], "containers", self("inspect", "-f", "{{.Id}}", name).strip()))
        return "warm" if "--restore" in words else "cold"

    def end(self):
        names = self("ps", "-aq").split()
        if names:
            self("rm", "-f", *names)
