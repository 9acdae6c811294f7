"""What comes before the first KVM_RUN of a container's machine, on this machine itself: `run --rm busybox true` up to where its guest would
run, by its processes. Where KVM runs no stock guest, the machine is made, and that it cannot run is said instead."""
import functools
import re
import subprocess
import tempfile

import containers

NATIVE = True
UNIT = "milliseconds"
LESS_IS_BETTER = True
CALLS = "execve,clone,clone3,fork,vfork,ioctl,write"
LINE = re.compile(r"^(\d+) +([0-9.]+) (\w+)\((.*)\) += (-?\d+).*<([0-9.]+)>$")


@functools.cache
def prepare(environment):
    directory = tempfile.TemporaryDirectory(prefix="vmm-bench-", dir="/dev/shm")
    engine = containers.Vmm(directory.name, environment.vmm, environment.images["machine"])
    engine.load(environment.images["busybox"])
    attempt(engine)     # formats the writable layer that all others are copies of
    return directory, engine


def attempt(engine):
    """A run whose guest may not be able to."""
    with engine.begin(*engine.run("--rm", "busybox", "true"), stderr=subprocess.DEVNULL) as process:
        process.stdout.read()


def joined(text):
    """strace's lines; of a call that others interrupt, both parts in one."""
    begun = {}
    for line in text.split("\n"):
        pid = line.split(" ", 1)[0]
        if line.endswith(" <unfinished ...>"):
            begun[pid] = line.removesuffix(" <unfinished ...>")
        elif match := re.match(r"\d+ +[0-9.]+ <\.\.\. \w+ resumed>(.*)", line):
            yield begun.pop(pid, "") + match.group(1)
        else:
            yield line


def trace(engine):
    """(pid, time, call, arguments, result, how long) of the processes of a run, times in seconds."""
    with tempfile.NamedTemporaryFile("r", prefix="vmm-bench-") as out:
        subprocess.run(["strace", "-f", "-qq", "-ttt", "-T", "-s", "64", "--seccomp-bpf", "-e", "trace=" + CALLS, "-e", "signal=none",
                        "-o", out.name, *engine.command(*engine.run("--rm", "busybox", "true"))],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=engine.environment(), check=False)
        for line in joined(out.read()):
            if match := LINE.match(line):
                pid, at, call, words, result, took = match.groups()
                yield int(pid), float(at), call, words, int(result), float(took)


def parts(calls):
    """{part: milliseconds} of one run's calls."""
    calls = sorted(calls, key=lambda call: call[1])
    begin = calls[0][1]
    monitor, started = next((pid, at) for pid, at, call, words, _, _ in calls if call == "execve" and '"--kernel"' in words)
    made_by = {result: (pid, at) for pid, at, call, _, result, _ in calls if "clone" in call or "fork" in call}
    supervisor, _ = made_by[monitor]
    forked = made_by[supervisor][1]
    own = {monitor} | {child for child, (parent, _) in made_by.items() if parent == monitor}
    of_monitor = [one for one in calls if one[0] in own and one[1] >= started]
    # Where it cannot run, the monitor says that it cannot.
    end = next(at for _, at, call, words, _, _ in of_monitor
               if (call == "ioctl" and "KVM_RUN," in words) or (call == "write" and words.startswith("2, ")))
    kvm = [took for _, at, call, words, _, took in of_monitor if call == "ioctl" and ", KVM_" in words and at < end]
    # What strace adds to each is taken off: the time of the quickest, which does next to nothing.
    in_kvm = sum(kvm) - len(kvm) * min(kvm)
    return {"command": forked - begin, "supervisor": started - forked, "monitor": end - started - in_kvm, "KVM": in_kvm,
            "process start to the first KVM_RUN": end - begin}


def run(environment):
    _, engine = prepare(environment)
    engines = {"cold": engine.cold()}
    if engine.has_template():
        engines["warm"] = engine
    for kind, one in engines.items():
        for part, seconds in parts(trace(one)).items():
            yield f"{kind}: {part}", "vmm", seconds * 1000
