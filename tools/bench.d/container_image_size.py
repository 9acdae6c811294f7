"""Whether a container's start depends on how many layers its image has, or how large they are: `run --rm IMAGE true` of vmm, and its
greatest part of the smallest."""
import functools
import os
import statistics

import containers

NATIVE = False
UNIT = "seconds, and their ratio"
LESS_IS_BETTER = True
IMAGES = ["one-small", "sixty-small", "one-large"]
TITLES = {"one-small": "1 layer, 10 MB", "sixty-small": "60 layers, 10 MB", "one-large": "1 layer, 2 GB (a disk, the others are mapped)"}
TURNS = 3


@functools.cache
def prepare(environment):
    host = containers.host(environment)
    for name in IMAGES:
        host.vmm.load(environment.images[name])
    host.vmm.load(environment.images["busybox"])
    engine = host.vmm.cold()
    host.vmm(*host.vmm.run("--rm", "busybox", "true"))
    if host.vmm.has_template():
        engine = host.vmm
    else:
        print("  no template: each is a cold boot", flush=True)
    for name in IMAGES:
        engine(*engine.run("--rm", f"bench/{name}:latest", "true"))
    return engine


def run(environment):
    engine = prepare(environment)
    took = {name: [] for name in IMAGES}
    for _ in range(TURNS):
        for name in IMAGES:
            took[name].append(engine.seconds(*engine.run("--rm", f"bench/{name}:latest", "true")))
    medians = {name: statistics.median(values) for name, values in took.items()}
    for name, value in medians.items():
        yield TITLES[name], "vmm", value
