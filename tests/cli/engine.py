"""Images: vmm becomes its engine, for the commands of images, or for all when it is called as docker."""
import fcntl
import hashlib
import http.server
import io
import json
import os
import re
import resource
import signal
import socket
import subprocess
import tarfile
import termios
import threading

from harness import test
from harness.terminal import Terminal


def run(t, *words, program=None, **environment):
    return subprocess.run([program or t.images.vmm, *words], text=True, capture_output=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "VMM_ROOT": t.path("store"), **environment}, timeout=60 * t.patience)


@test
def an_image_of_debian_is_loaded(t):
    loaded = run(t, "load", "-i", t.images.busybox)
    t.equal((loaded.returncode, loaded.stderr), (0, ""))
    t.equal(loaded.stdout, "Loaded image: busybox:latest\n")
    t.equal(run(t, "images", "--format", "{{.Repository}}:{{.Tag}}").stdout, "busybox:latest\n")
    t.equal(run(t, "inspect", "-f", "{{json .Config.Cmd}}", "busybox").stdout, '["sh"]\n')


@test
def what_the_store_has_is_not_written_again(t):
    run(t, "load", "-i", t.images.busybox)
    saved = t.path("saved.tar")
    t.equal(run(t, "save", "-o", saved, "busybox").returncode, 0)

    def load(path, most):
        return subprocess.run([t.images.vmm, "load", "-i", path], text=True, capture_output=True, timeout=60 * t.patience,
                              env={**os.environ, "VMM_ROOT": t.path("store")},
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    again = load(saved, 256 << 10)      # which is less than its layer
    t.equal((again.returncode, again.stdout, again.stderr), (0, "Loaded image: busybox:latest\n", ""))
    # But it is looked at.
    with tarfile.open(saved) as tar:
        largest = max((one for one in tar if one.name.startswith("blobs/")), key=lambda one: one.size)
    t.true(largest.size > 256 << 10, f"the layer has {largest.size} bytes")
    with open(saved, "r+b") as file:
        file.seek(largest.offset_data + 1000)
        file.write(b"changed")
    changed = load(saved, resource.RLIM_INFINITY)
    t.equal((changed.returncode, changed.stderr), (1, f"vmm: '{largest.name}': digest mismatch\n"))


@test
def called_as_docker(t):
    docker = t.path("docker")
    os.symlink(t.images.vmm, docker)
    missing = run(t, "rmi", "none", program=docker)
    t.equal((missing.returncode, missing.stderr), (1, "Error response from daemon: No such image: none:latest\n"))
    t.equal(run(t, "images", "--foo", program=docker).returncode, 125)


@test
def a_missing_engine_is_a_sentence(t):
    missing = run(t, "images", VMM_LIBEXEC="/nowhere")
    t.equal((missing.returncode, missing.stdout), (1, ""))
    t.equal(missing.stderr, "vmm: the engine '/nowhere/vmm-engine' cannot be run: VMM_LIBEXEC names its folder\n")


class Registry:
    """Debian's registry on this machine, which knows one user."""

    def __init__(self, t):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = "localhost:%d" % probe.getsockname()[1]
        # The bcrypt of "secret".
        users = t.file("users", b"me:$2b$05$f1JmxuCB0THc.uMPQAXK1eb3Eq3HE.4dD4Fiedsshw//qSsj1PX/u\n")
        config = t.file("registry.yml", f"""
version: 0.1
storage: {{filesystem: {{rootdirectory: "{t.path('registry')}"}}}}
http: {{addr: "{self.host}"}}
auth: {{htpasswd: {{realm: test, path: "{users}"}}}}
""".encode())
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        t.eventually(self.answers, 30, "the registry answers")

    def answers(self):
        name, port = self.host.split(":")
        try:
            socket.create_connection((name, int(port))).close()
            return True
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait()


@test
def an_image_goes_to_a_registry_and_back(t):
    config = t.path("docker")
    with Registry(t) as registry:
        def vmm(*words, **how):
            return run(t, *words, DOCKER_CONFIG=config, **how)

        name = registry.host + "/team/app:1"
        run(t, "load", "-i", t.images.busybox)
        run(t, "tag", "busybox", name)
        refused = vmm("push", name)
        t.equal((refused.returncode, refused.stderr), (1, "vmm: no basic auth credentials\n"))
        wrong = vmm("login", "-u", "me", "-p", "wrong", registry.host)
        t.equal(wrong.returncode, 1)
        t.contains(wrong.stderr, "failed with status: 401 Unauthorized\n")
        logged_in = vmm("login", "-u", "me", "-p", "secret", registry.host)
        t.equal((logged_in.returncode, logged_in.stdout), (0, "Login Succeeded\n"))
        pushed = vmm("push", name)
        t.equal((pushed.returncode, pushed.stderr), (0, ""))
        digest = pushed.stdout.split("digest: ")[1].split()[0]
        t.contains(vmm("push", name).stdout, "Layer already exists")
        # Another client finds what was sent.
        other = subprocess.run(["skopeo", "inspect", "--tls-verify=false", "--creds", "me:secret", "docker://" + name],
                               text=True, capture_output=True)
        t.equal((other.returncode, other.stderr), (0, ""))
        t.equal(json.loads(other.stdout)["Digest"], digest)
        image = run(t, "images", "-q", "busybox").stdout
        run(t, "rmi", "-f", "busybox", name)
        pulled = vmm("pull", name)
        t.equal((pulled.returncode, pulled.stderr), (0, ""))
        t.contains(pulled.stdout, f"Digest: {digest}\nStatus: Downloaded newer image for {name}\n")
        t.equal(run(t, "images", "-q", name).stdout, image)
        t.equal(vmm("logout", registry.host).stdout, f"Removing login credentials for {registry.host}\n")
        t.equal(vmm("pull", name).returncode, 1)


class SlowRegistry(http.server.ThreadingHTTPServer):
    """A registry of one image with two layers. The second one stops in its middle until `go_on` is set."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), SlowAnswers)
        self.asked, self.go_on, self.contents = [], threading.Event(), {}
        layers = [self.layer(b"small"), self.layer(os.urandom(2_000_000))]
        config = self.add(json.dumps({"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
                                      "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}).encode())
        manifest = self.add(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode())
        self.contents["1"] = self.contents[manifest["digest"]]
        self.small, self.large = (layer["digest"] for layer in layers)
        self.host = "localhost:%d" % self.server_address[1]
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def add(self, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.contents[digest] = content
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}

    def layer(self, content):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            info = tarfile.TarInfo("file")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        return self.add(archive.getvalue())

    def __exit__(self, *unused):
        self.go_on.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """It is used to clients that go."""


class SlowAnswers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        content = self.server.contents.get(name, b"{}")
        self.server.asked.append(name)
        self.send_response(200 if name in self.server.contents or not name else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2 if name == self.server.large else len(content)
        self.wfile.write(content[:half])
        self.wfile.flush()
        if half < len(content):
            self.server.go_on.wait()
            self.wfile.write(content[half:])

    def log_message(self, *unused):
        """Nothing: standard error is the test's."""


@test
def a_pull_is_interrupted_and_goes_on(t):
    with SlowRegistry() as registry:
        name = registry.host + "/team/app:1"
        small, large = registry.small[7:19], registry.large[7:19]
        terminal = Terminal(t.images.vmm, "pull", name, VMM_ROOT=t.path("store"))
        before = termios.tcgetattr(terminal.fd)
        while not (re.search(large + r": Downloading \[=+> +\] +1\.\d+MB/2\.\d+MB", terminal.text) and small + ": Download complete" in terminal.text):
            t.true(terminal.read(60 * t.patience), f"there is a bar: {terminal.text!r}")
        os.write(terminal.fd, b"\x03")
        while "pull\r\n" not in terminal.text and terminal.read(60 * t.patience):
            pass
        t.equal(termios.tcgetattr(terminal.fd), before, "the terminal")
        while terminal.read(60 * t.patience):
            pass
        t.equal(terminal.end(), -signal.SIGINT, "how it ended")
        t.true(terminal.text.replace("^C", "").endswith(
            f"vmm: interrupted: '{name}' was not pulled; layers that came whole are kept for the next pull\r\n"), repr(terminal.text))
        t.equal(os.listdir(t.path("store/tmp")), [], "what is left of the rest")
        t.equal(run(t, "images", "-q").stdout, "")
        # What came whole is not asked for again; elsewhere than on a terminal there are lines.
        registry.go_on.set()
        registry.asked.clear()
        pulled = run(t, "pull", name)
        t.equal((pulled.returncode, pulled.stderr), (0, ""))
        t.true(registry.small not in registry.asked and registry.large in registry.asked, f"{registry.asked}")
        t.equal(pulled.stdout.splitlines()[1:-3],
                [f"{small}: Already exists", f"{large}: Pulling fs layer", f"{large}: Verifying Checksum", f"{large}: Download complete",
                 f"{small}: Pull complete", f"{large}: Pull complete"])


@test
def a_pull_is_interrupted_at_its_end(t):
    with SlowRegistry() as registry:
        registry.go_on.set()
        name = registry.host + "/team/app:1"
        before_the_last = run(t, "pull", name).stdout.rsplit("Pull complete", 1)[0].rsplit("\n", 1)[0] + "\n"
        # A pipe that has room up to there: the command stands still in its last line, when nothing can be cancelled any more.
        reader, writer = os.pipe()
        size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, b"." * (size - len(before_the_last)))
        process = subprocess.Popen([t.images.vmm, "pull", name], stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "VMM_ROOT": t.path("other")})
        os.close(writer)

        def stands_still():
            waits = []
            for task in os.listdir(f"/proc/{process.pid}/task"):
                with open(f"/proc/{process.pid}/task/{task}/wchan") as file:
                    waits.append(file.read().endswith("pipe_write"))
            return any(waits)
        t.eventually(stands_still, 60, "it writes its last line")
        process.send_signal(signal.SIGINT)
        t.eventually(lambda: not takes_signal(process, signal.SIGINT), 10, "the signal was taken")
        with open(reader, "rb") as file:
            output = file.read().decode()
        t.equal((process.communicate(timeout=60 * t.patience)[1], process.returncode), ("", -signal.SIGINT))
        t.true(output.endswith("Pull complete\n"), f"the rest is not said: {output}")


def takes_signal(process, number):
    with open(f"/proc/{process.pid}/status") as file:
        return int(re.search(r"SigCgt:\s+(\w+)", file.read()).group(1), 16) >> (number - 1) & 1


@test
def the_links_of_busybox_have_its_mode(t):
    """Docker and podman take a file's mode of its last name."""
    with tarfile.open(t.images.busybox) as archive:
        (layer,) = [name for name in archive.getnames() if name.endswith("/layer.tar")]
        with tarfile.open(fileobj=archive.extractfile(layer)) as files:
            links = [entry for entry in files if entry.islnk()]
    t.true(len(links) > 100, f"{len(links)} links")
    t.equal({(entry.linkname, entry.mode) for entry in links}, {("bin/busybox", 0o755)})
