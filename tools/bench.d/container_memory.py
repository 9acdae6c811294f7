"""What a container takes of the host's memory: by the pages that are its processes' alone, and by what the host has left. Of idle ones, and
of twenty whose Python has loaded a module."""
import functools
import time

import containers

NATIVE = False
UNIT = "MiB a container"
LESS_IS_BETTER = True
IDLE, BUSY = 8, 20
SETTLED = 5     # seconds: a machine gives back what it does not need
PYTHON = ("sh", "-c", "python3 -c 'import json'; echo done; exec sleep 100000")


@functools.cache
def prepare(environment):
    host = containers.host(environment)
    host.load("busybox", "python")
    return host.usual_kinds()


def wait_for_line(engine, name):
    deadline = time.monotonic() + containers.PATIENCE
    while "done" not in engine("logs", name):
        if time.monotonic() > deadline:
            raise RuntimeError(f"container {name} of {engine.name} does not get done")
        time.sleep(0.2)


def memory_of(engine, count, start):
    """(private, of the host's) MiB a container of `count`; start(name) starts one."""
    names = [f"bench{number}" for number in range(count)]
    start(names[0])     # what all share is not counted, nor what the first of an image reads
    try:
        before, left = containers.processes(), containers.available()
        for name in names[1:]:
            start(name)
        time.sleep(SETTLED)
        host = left - containers.available()
        own = sum(containers.private(pid) for pid in containers.processes() - before)
    finally:
        engine.remove_all()
    return own / (count - 1), host / (count - 1)


def measure(engine):
    def idle(name):
        engine(*engine.run("-d", "--name", name, "busybox", *containers.SLEEP))

    def busy(name):
        engine(*engine.run("-d", "--name", name, "python:3.11", *PYTHON))
        wait_for_line(engine, name)
    result = {}
    result["idle, private"], result["idle, of the host's"] = memory_of(engine, IDLE + 1, idle)
    result[f"{BUSY} after import json, private"], result[f"{BUSY} after import json, of the host's"] = memory_of(engine, BUSY + 1, busy)
    return result


def run(environment):
    yield from containers.in_turns(prepare(environment), measure)
