"""Containers that take more than there is: memory, processes."""
from harness import test
from harness.engine import Engine

SMALL = ("-m", "64m", "--cpus", "1")


@test(only="x86_64")
def more_memory_than_it_may_have(t):
    vmm = Engine(t, "cold")
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
    vmm = Engine(t, "cold")
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
