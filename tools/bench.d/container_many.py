"""Twenty containers of one image that are started at once, until each has answered."""
import functools
import time

import containers

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True
COUNT = 20


@functools.cache
def prepare(environment):
    host = containers.host(environment)
    host.load("busybox")
    return host.usual_kinds()


def measure(engine):
    names = [f"bench{number}" for number in range(COUNT)]
    start = time.monotonic()
    # A file in memory takes the errors: a pipe that nobody reads may fill.
    begun = [engine.begin(*engine.run("--name", name, "busybox", "sh", "-c", "echo up; exec sleep 100000"), stderr=None) for name in names]
    try:
        if not containers.wait_for_output(begun):
            raise RuntimeError(f"not all of {COUNT} containers of {engine.name} answer")
        took = time.monotonic() - start
    finally:
        engine.remove(names)
        for process in begun:
            with process:
                process.stdout.read()
    return {f"{COUNT} at once, until all answered": took}


def run(environment):
    yield from containers.in_turns(prepare(environment), measure)
