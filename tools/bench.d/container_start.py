"""A container's start, and a command in one that runs: whole commands, as a person waits for them."""
import functools

import containers

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True


@functools.cache
def prepare(environment):
    host = containers.host(environment)
    host.load("busybox")
    return host.kinds()


def measure(engine):
    # What another engine ran before is not in the figures: the first run of each turn is not counted.
    engine(*engine.run("--rm", "busybox", "true"))
    result = {"run --rm busybox true": engine.seconds(*engine.run("--rm", "busybox", "true")),
              "run busybox echo hi, first output": engine.seconds_to_output(*engine.run("--rm", "busybox", "echo", "hi"))}
    engine(*engine.run("-d", "--name", "bench", "busybox", *containers.SLEEP))
    try:
        engine("exec", "bench", "true")     # the first one is not counted
        result["exec true"] = engine.seconds("exec", "bench", "true")
    finally:
        engine.remove(["bench"])
    return result


def run(environment):
    yield from containers.in_turns(prepare(environment), measure)
