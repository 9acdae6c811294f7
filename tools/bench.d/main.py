"""Runs the benchmarks: prepares the images, enters the test host, repeats, compares, prints."""
import argparse
import datetime
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import host_memory
import peers
import results
import synthetic_image

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST_DIED = 125  # tools/test-host's exit code for it
HOSTS = 3  # that are tried
REPETITIONS = 3  # the same
# Each a module with: NATIVE (runs here rather than on the test host), UNIT, LESS_IS_BETTER, and
# run(environment) -> iterator of (row, peer name, value), called once a repetition.
NAMES = ["boot", "stock-boot", "memory", "start", "block", "net", "balloon", "save", "restore", "forks", "export"]
NEED_ROOT = {"block", "net", "balloon", "export"}
# The name of all of them: `containers`.
CONTAINER_NAMES = ["container-start", "container-many", "container-memory", "container-pull", "container-image-size", "container-parts"]
# Synthetic images of containers, and the benchmark that needs each.
SYNTHETIC = {"pulled": "container-pull", **dict.fromkeys(["one-small", "sixty-small", "one-large"], "container-image-size")}
# Not of this machine itself, nor of a kernel that is measured here alone.
FOREIGN_NAMES = [name for name in NAMES if name not in ("stock-boot", "start")]
NATIVE_ARCHITECTURE = os.uname().machine


def module(name):
    return importlib.import_module(name.replace("-", "_"))


class Environment:
    """What benchmarks need: paths of images, the peers."""

    def __init__(self, arguments):
        self.vmm = arguments.vmm
        self.peers = peers.peers(arguments.vmm)
        self.images = json.loads(arguments.images) if arguments.images else {}


def last_lines(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.split("\n")


def prepare(arguments, names):
    """Builds what the guests of these benchmarks need, on this machine; cached by the recipes."""
    machines = set(names) - set(CONTAINER_NAMES)
    images = prepare_machines(arguments.arch, machines) if machines else {}
    if set(names) - machines:
        images.update(prepare_containers(arguments.vmm, names))
    return images


def prepare_machines(architecture, names):
    kernel = "vmlinux" if architecture == "x86_64" else "Image"
    images = {"initramfs": last_lines("guest-images/initramfs/build", "--arch", architecture)[0]}
    if names - {"stock-boot"}:     # the small kernel, compiled for minutes
        images["kernel"] = last_lines("guest-images/kernel/build", "--arch", architecture, "--print", kernel)[0]
    if NEED_ROOT & names:
        images["rootfs"] = last_lines("guest-images/rootfs/build", "--arch", architecture)[0]
    if "stock-boot" in names:
        for name in module("stock-boot").KERNELS.values():
            images[f"stock_{name}"] = {form: last_lines("guest-images/kernel/stock", "--print", form, name)[0]
                                       for form in ("vmlinuz", "vmlinux")}
    return images


def prepare_containers(vmm, names):
    images = {"machine": str(pathlib.Path(vmm).parents[2] / "guest-images/machine"),    # by `ninja machine`
              "busybox": last_lines("guest-images/container/build", "busybox")[0]}
    if "container-memory" in names:
        images["python"] = last_lines("guest-images/container/build", "python")[0]
    for name, of in SYNTHETIC.items():
        if of in names:
            images[name] = synthetic_image.kept(name, images["busybox"])
    return images


def repetition(name, environment):
    """One that a guest hangs in is begun again: emulated processors lose a wake-up now and then, whoever the monitor is."""
    for left in reversed(range(REPETITIONS)):
        try:
            return list(module(name).run(environment))
        except RuntimeError as error:
            if not left:
                raise
            print(f"  {name}: once more, as {error}", file=sys.stderr, flush=True)


def measure(name, environment, runs):
    """{row: {peer: [values]}}: repetitions are interleaved, so that drift hits all alike."""
    values = {}
    for number in range(runs):
        for row, peer, value in repetition(name, environment):
            values.setdefault(row, {}).setdefault(peer, []).append(value)
        print(f"  {name}: {number + 1} of {runs}", file=sys.stderr, flush=True)
    return values


def on_test_host(name, arguments, images):
    """In a boot of its own: one that the emulator breaks costs this benchmark alone, which begins again."""
    with tempfile.TemporaryDirectory(prefix="vmm-bench-") as out:
        command = ["tools/test-host", "--arch", arguments.arch, "--out", out, "python3", __file__, "--vmm", arguments.vmm,
                   "--runs", str(arguments.runs), "--images", json.dumps(images), name]
        for _ in range(HOSTS):
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
            if code != HOST_DIED:
                break
        if code:
            sys.exit(f"bench: {name} ended with {code} on the test host")
        return json.loads(pathlib.Path(out, "values.json").read_text())


def report(name, values):
    unit = module(name).UNIT
    print(f"\n{name} ({unit}; {'less' if module(name).LESS_IS_BETTER else 'more'} is better)")
    for row, by_peer in values.items():
        medians = {peer: statistics.median(v) for peer, v in by_peer.items()}
        text = f"  {row:34}"
        for peer, median in medians.items():
            text += f"  {peer} {median:.3f}"
            if peer != "vmm" and median and "vmm" in medians:
                text += f" (vmm/{peer} {medians['vmm'] / median:.2f})"
        print(text, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vmm", required=True)
    parser.add_argument("--arch", default=NATIVE_ARCHITECTURE)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--images", help=argparse.SUPPRESS)  # set when inside of the test host
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    is_native = arguments.arch == NATIVE_ARCHITECTURE
    default = NAMES if is_native else FOREIGN_NAMES
    known = default + CONTAINER_NAMES if is_native else default
    names = [name for word in arguments.names or default for name in (CONTAINER_NAMES if word == "containers" else [word])]
    for name in names:
        if name not in known:
            sys.exit(f"bench: unknown benchmark '{name}': {', '.join(known)} are known for {arguments.arch}")
    if arguments.images:  # on the test host: measure, and leave the values for the outside
        environment = Environment(arguments)
        host_memory.touch_all()
        values = measure(names[0], environment, arguments.runs)
        pathlib.Path(os.environ["TEST_HOST_OUT"], "values.json").write_text(json.dumps(values))
        return
    images = prepare(arguments, names)
    result = {}
    for name in names:
        if module(name).NATIVE:
            arguments.images = json.dumps(images)
            result[name] = measure(name, Environment(arguments), arguments.runs)
        else:
            result[name] = on_test_host(name, arguments, images)
        report(name, result[name])
    if arguments.json:
        results.save(arguments.json, [
            results.Topic(name, name, module(name).UNIT, module(name).LESS_IS_BETTER, datetime.date.today().isoformat(),
                          f"tools/bench --runs {arguments.runs} {name}, {arguments.arch}", rows) for name, rows in result.items()])


main()
