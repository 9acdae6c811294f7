"""Images: vmm becomes its engine, for the commands of images, or for all when it is called as docker."""
import json
import os
import socket
import subprocess

from harness import test


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
