"""Pull and unpack of an image of 300 MB, in five layers, from a registry on this host."""
import atexit
import functools
import pathlib
import socket
import subprocess
import time

import containers

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True
NAME = "bench/pulled:latest"


def wait_for(address):
    deadline = time.monotonic() + containers.PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the registry does not answer")


def serve(directory):
    """A registry's HOST:PORT; it ends with this program."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    host = "localhost:%d" % address[1]
    configuration = pathlib.Path(directory, "registry.yml")
    configuration.write_text(f"""
version: 0.1
storage: {{filesystem: {{rootdirectory: "{directory}/registry"}}}}
http: {{addr: "{host}"}}
""")
    process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(process.terminate)
    wait_for(address)
    return host


@functools.cache
def prepare(environment):
    host = containers.host(environment)
    reference = f"{serve(host.directory)}/{NAME}"
    subprocess.run(["skopeo", "--insecure-policy", "--tmpdir", host.directory, "copy", "--quiet", "--dest-tls-verify=false",
                    f"oci-archive:{environment.images['pulled']}", f"docker://{reference}"], check=True)
    return host, reference


def pull(engine, reference, *how):
    took = engine.seconds("pull", "-q", *how, reference)
    engine("rmi", "-f", reference)
    return took


def run(environment):
    host, reference = prepare(environment)
    row = "pull and unpack 300 MB"
    yield row, "vmm", pull(host.vmm, reference)
    yield row, "podman", pull(host.podman, reference, "--tls-verify=false")
