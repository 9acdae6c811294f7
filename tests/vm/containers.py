"""Containers that are machines, by the commands that a person types."""
import os
import signal
import socket
import subprocess
import tarfile

from harness import host, test
from harness.engine import SIZE, Engine, processes_called


def cold_and_warm(function):
    """A test twice: of machines that boot, and of machines that go on from a template. What is seen is the same."""
    for way in ("cold", "warm"):
        def run(t, way=way):
            function(t, way)
        run.__name__ = f"{function.__name__}_{way}"
        test(run, only="x86_64")
    return function


@cold_and_warm
def run_and_its_exit_codes(t, way):
    vmm = Engine(t, way)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm.warm_up("busybox", "true")
        t.equal(vmm("run", "--rm", *SIZE, "busybox", "echo", "hi"), "hi\n")
        t.equal(vmm("ps", "-aq"), "", "removed")
        script = "echo out; echo err >&2; cat /proc/1/comm; hostname; cat; exit 7"
        output = vmm("run", "-i", "--name", "one", "-h", "box", *SIZE, "busybox", "sh", "-c", script, code=7, error="err\n", input="typed")
        t.equal(output, "out\nsh\nbox\ntyped")
        t.equal(vmm("logs", "one", error="err\n"), "out\nsh\nbox\ntyped")
        t.contains(vmm("ps", "-a"), "Exited (7)")
        # What it wrote is there after a start.
        vmm("run", "--name", "kept", *SIZE, "busybox", "sh", "-c", "cat /kept || echo written >/kept", error="can't open")
        t.equal(vmm("start", "-a", "kept"), "written\n")
        vmm("run", "--rm", *SIZE, "busybox", "nonesuch", code=127, error='exec: "nonesuch": executable file not found in $PATH')
    finally:
        vmm.end()


def files_of(t, vmm):
    """cp, diff, export and commit of a container that runs."""
    with open(t.path("note"), "w") as file:
        file.write("a note\n")
    script = "mkdir -p /srv/d && mknod /srv/d/p p && ln -s /etc /srv/d/l && echo x >/srv/d/f && rm /bin/vi && chown 7:8 /srv/d/f"
    vmm("exec", "web", "sh", "-c", script)
    vmm("cp", t.path("note"), "web:/srv/d/l/note")
    t.equal(vmm("exec", "web", "sh", "-c", "cat /etc/note; stat -c '%u:%g %a' /etc/note"), "a note\n0:0 %o\n"
            % (os.stat(t.path("note")).st_mode & 0o777))
    vmm("cp", "web:/srv/d", t.path("copied"))
    t.equal(sorted(os.listdir(t.path("copied"))), ["f", "l", "p"])
    t.equal(os.readlink(t.path("copied/l")), "/etc")
    t.equal(vmm("diff", "web").splitlines(), ["C /bin", "D /bin/vi", "C /etc", "A /etc/note", "A /srv", "A /srv/d", "A /srv/d/f",
                                              "A /srv/d/l", "A /srv/d/p"])
    vmm("cp", "web:/etc/hostname", t.path("hostname"))
    with open(t.path("hostname")) as file:
        t.equal(file.read(), vmm("exec", "web", "hostname"), "what is mounted over the image's")
    vmm("export", "-o", t.path("export.tar"), "web")
    with tarfile.open(t.path("export.tar")) as tar:
        t.equal((tar.getmember("srv/d/f").uid, tar.getmember("srv/d/f").gid), (7, 8))
        t.true("bin/vi" not in tar.getnames() and "bin/busybox" in tar.getnames(), "all but what was removed")
    vmm("commit", "-c", 'CMD ["cat", "/etc/note"]', "web", "noted")
    t.equal(vmm("run", "--rm", *SIZE, "noted"), "a note\n")
    vmm("run", "--rm", *SIZE, "noted", "vi", code=127, error="executable file not found")


@cold_and_warm
def in_the_background(t, way):
    vmm = Engine(t, way)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm.warm_up("busybox", "true")
        name = vmm("run", "-d", "--name", "web", *SIZE, "busybox", "sleep", "1000").strip()
        t.equal(vmm("ps", "-q", "--no-trunc").strip(), name)
        t.equal(vmm.started_by("web"), way)
        t.equal(vmm("exec", "web", "cat", "/proc/1/comm"), "sleep\n")
        t.equal(vmm("exec", "-i", "-e", "A=b", "-w", "/tmp", "-u", "nobody", "web", "sh", "-c", "cat; pwd; echo $A; id -u",
                    input="in\n"), "in\n/tmp\nb\n65534\n")
        vmm("exec", "web", "sh", "-c", "exit 3", code=3)
        files_of(t, vmm)
        t.equal(vmm("exec", "web", "ip", "-4", "addr", "show", "eth0").split("inet ")[1].split()[0], "10.0.2.15/24")
        t.equal(vmm("stop", "-t", "1", "web"), "web\n")     # PID 1 without a handler: SIGKILL after a second
        t.equal(vmm("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"), "exited 137\n")
        # Of a stopped one, whose machine boots without it.
        vmm("cp", t.path("note"), "web:/srv/stopped")
        t.equal(vmm("start", "web"), "web\n")
        t.equal(vmm("exec", "web", "cat", "/srv/stopped"), "a note\n")
        t.equal(vmm("rm", "-f", "web"), "web\n")
        t.equal(vmm("ps", "-aq"), "")
    finally:
        vmm.end()


def text_at(t, port):
    """What a server at a port of the host says; None: nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10 * t.patience) as client:
            return client.makefile().read()
    except OSError:
        return None


@cold_and_warm
def ports_a_terminal_and_a_pause(t, way):
    vmm = Engine(t, way)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm.warm_up("busybox", "true")
        serve = "while :; do echo served | nc -l -p 80; done"
        vmm("run", "-d", "--name", "web", "-t", "-p", "127.0.0.1::80", *SIZE, "busybox", "sh", "-c", f"tty; {serve}")
        number = int(vmm("port", "web", "80").strip().rsplit(":", 1)[1])
        t.eventually(lambda: text_at(t, number) == "served\n", 30, "the published port is reached")
        t.equal(vmm("logs", "web").splitlines()[0], "/dev/pts/0")
        t.contains(vmm("top", "web"), "sh -c tty")
        memory = vmm("stats", "--no-stream", "--format", "{{.MemUsage}}").strip()
        t.true(memory.endswith(" / 256MiB"), memory)
        vmm("pause", "web")
        t.contains(vmm("ps"), "(Paused)")
        vmm("unpause", "web")
        t.eventually(lambda: text_at(t, number) == "served\n", 30, "it goes on")
    finally:
        vmm.end()


COUNTING = "echo started; echo 100 >/count; read i </count; while :; do i=$((i+1)); echo $i >/new; mv /new /count; usleep 20000; done"


def counted(vmm, name):
    return int(vmm("exec", name, "cat", "/count"))


@cold_and_warm
def go_on_from_a_snapshot(t, way):
    """Memory and files of one moment: what goes on from there is another container, and what it writes is its own."""
    vmm = Engine(t, way)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm.warm_up("busybox", "true")
        vmm("run", "-d", "--name", "first", *SIZE, "busybox", "sh", "-c", COUNTING)
        t.equal(vmm.started_by("first"), way)
        vmm("exec", "first", "sh", "-c", "echo mine >/etc/mine")
        t.eventually(lambda: counted(vmm, "first") > 110, 60, "it counts")
        t.equal(vmm("snapshot", "create", "first", "counting"), "counting\n")
        vmm("exec", "first", "sh", "-c", "echo later >/etc/mine")
        t.equal(vmm("snapshot", "ls", "--format", "{{.Name}} {{.Container}} {{.Image}}"), "counting first busybox\n")
        vmm("snapshot", "create", "first", "counting", code=1, error="a snapshot of the name 'counting' is there already")
        # Beside its original, and beside another one.
        for name in ("second", "third"):
            vmm("run", "-d", "--name", name, "-h", name, "--from", "counting")
            t.equal(vmm("exec", name, "cat", "/etc/mine"), "mine\n")
            t.equal(vmm("exec", name, "sh", "-c", "hostname; cat /etc/hostname; tail -n 1 /etc/hosts"), f"{name}\n{name}\n10.0.2.15\t{name}\n")
            seen = counted(vmm, name)
            t.true(seen > 110, f"it goes on from {seen}")
            t.eventually(lambda: counted(vmm, name) > seen, 60, "it counts on")
            t.equal(vmm("logs", name), "", "what its process says from then on")
        vmm("exec", "second", "sh", "-c", "echo second >/etc/mine")
        t.equal([vmm("exec", name, "cat", "/etc/mine") for name in ("first", "second", "third")], ["later\n", "second\n", "mine\n"])
        # After its end it is a container as others are: its process starts anew, with the files that it has.
        vmm("stop", "-t", "1", "second")
        vmm("start", "second")
        t.equal(vmm("exec", "second", "cat", "/etc/mine"), "second\n")
        t.eventually(lambda: vmm("logs", "second") == "started\n", 20, "its process has begun anew")
        t.equal(vmm("diff", "second").splitlines()[0], "A /count")
        vmm("snapshot", "rm", "counting", code=1, error="is made of it")
        vmm("rmi", "busybox", code=1, error="image is being used by running container")
        vmm("rm", "-f", "first", "second", "third")
        vmm("rmi", "busybox", code=1, error="image is being used by snapshot counting")
        t.equal(vmm("snapshot", "rm", "counting"), "counting\n")
        t.equal(os.listdir(os.path.join(vmm.environment["VMM_ROOT"], "snapshots")), [])
    finally:
        vmm.end()


@cold_and_warm
def forks(t, way):
    vmm = Engine(t, way)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm.warm_up("busybox", "true")
        serve = "while :; do nc -l -p 80 </etc/hostname; done"
        vmm("run", "-d", "-t", "--name", "first", *SIZE, "busybox", "sh", "-c", f"echo said; {serve}")
        t.eventually(lambda: "said" in vmm("logs", "first"), 20, "it runs")
        folder = os.path.join(vmm.environment["VMM_ROOT"], "snapshots")
        ids = vmm("fork", "-n", "2", "--name", "copy{n}", "-p", "127.0.0.1::80", "first").split()
        t.equal(sorted(vmm("ps", "--format", "{{.Names}}").split()), ["copy1", "copy2", "first"])
        for name, whole in zip(("copy1", "copy2"), ids):
            t.equal(vmm("inspect", "-f", "{{.Id}}", name).strip(), whole)
            number = int(vmm("port", name, "80").strip().rsplit(":", 1)[1])
            t.eventually(lambda: text_at(t, number) == whole[:12] + "\n", 60, "a copy is reached at its own port, and has its own name")
        t.equal(len(os.listdir(folder)), 1, "what the copies are made of")
        t.equal(vmm("snapshot", "ls", "-q"), "", "it has no name")
        vmm("rm", "-f", "copy1")
        t.equal(len(os.listdir(folder)), 1)
        # A copy of a copy.
        vmm("exec", "copy2", "sh", "-c", "echo deep >/deep")
        vmm("fork", "--name", "deeper", "--rm", "copy2")
        t.equal(vmm("exec", "deeper", "cat", "/deep"), "deep\n")
        vmm("rm", "-f", "copy2")
        t.equal(vmm("exec", "deeper", "sh", "-c", "cat /deep; ls /bin | wc -l").split()[0], "deep", "its files are there without the copy")
        vmm("kill", "deeper")
        t.eventually(lambda: os.listdir(folder) == [], 60, "the last one takes them with it")
        vmm("pause", "first")
        vmm("fork", "first", code=1, error="is paused")
        vmm("unpause", "first")
        vmm("run", "--from", "none", code=125, error="No such snapshot: none")
        t.equal(os.listdir(folder), [])
    finally:
        vmm.end()


@test(only="x86_64")
def templates_that_do_not_work(t):
    """A damaged one is no reason for a container not to start: its machine boots, and another one is made."""
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        vmm.warm_up("busybox", "true")
        (name,) = vmm.names_of_templates()
        folder = os.path.join(vmm.templates, name)

        def damage(file, size):
            before = os.stat(folder).st_ino
            os.truncate(os.path.join(folder, file), size)
            t.equal(vmm("run", "--rm", *SIZE, "busybox", "echo", "hi"), "hi\n", file)
            t.eventually(lambda: os.path.exists(folder) and os.stat(folder).st_ino != before, 120, "a new template", every=0.25)
            t.equal(vmm("run", "--rm", *SIZE, "busybox", "echo", "warm"), "warm\n", "which works: two that do not would be the last")
        damage("state", 100)
        damage("memory", 64 << 20)      # what is behind its end is missing while the guest runs
        vmm("run", "-d", "--name", "web", *SIZE, "busybox", "sleep", "1000")
        t.equal(vmm.started_by("web"), "warm")
        t.contains(vmm("system", "df"), "Machine Templates")
        vmm("system", "prune", "-f")
        t.equal(vmm.names_of_templates(), set())
        t.equal(vmm("exec", "web", "cat", "/proc/1/comm"), "sleep\n", "what runs from one goes on")
        vmm("rm", "-f", "web")
        # Who makes one may die at any instant: the next start has it made.
        vmm("run", "--rm", *SIZE, "busybox", "true")
        maker = t.eventually(lambda: processes_called("vmm-template"), 10, "who makes a template")[0]
        os.kill(maker, signal.SIGKILL)
        t.eventually(lambda: not processes_called("vmm-template") and not vmm.machines_of_templates(), 30, "it takes its machine along")
        t.equal(vmm.names_of_templates(), set())
        vmm("run", "--rm", *SIZE, "busybox", "true")
        t.eventually(lambda: vmm.names_of_templates() == {name}, 120, "a template", every=0.25)
    finally:
        vmm.end()


@test(only="x86_64")
def a_template_without_room(t):
    """Its making fails beside a container that runs, and leaves nothing but the reason."""
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    folder = os.path.join(vmm.environment["VMM_ROOT"], "machine/templates")
    os.unlink(folder)
    os.makedirs(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", folder], check=True)
    try:
        vmm("run", "-d", "--name", "web", *SIZE, "busybox", "sleep", "1000")

        def reason():
            locks = [name for name in os.listdir(folder) if name.endswith(".lock")]
            if processes_called("vmm-template") or not locks:
                return None
            with open(os.path.join(folder, locks[0])) as file:
                return file.read()
        t.contains(t.eventually(reason, 120, "the making ends", every=0.25), "No space left on device")
        t.equal([name for name in os.listdir(folder) if not name.endswith(".lock")], [])
        t.equal(vmm.machines_in(folder), [])
        t.equal(vmm("exec", "web", "echo", "runs"), "runs\n")
        t.equal(vmm("run", "--rm", *SIZE, "busybox", "echo", "hi"), "hi\n")
        t.equal(processes_called("vmm-template"), [], "it is not tried again at once")
    finally:
        vmm.end()
        subprocess.run(["umount", "-l", folder], check=True)


@test(only="x86_64")
def a_snapshot_that_is_interrupted(t):
    vmm = Engine(t)
    vmm("load", "-i", t.images.busybox)
    try:
        # Memory that takes its time.
        vmm("run", "-d", "--name", "web", *SIZE, "--shm-size", "128m", "busybox", "sh", "-c",
            "dd if=/dev/urandom of=/dev/shm/x bs=1M count=100; echo filled; exec sleep 1000")
        t.eventually(lambda: "filled" in vmm("logs", "web", error=""), 120, "its memory is full")
        folder = os.path.join(vmm.environment["VMM_ROOT"], "snapshots")
        process = vmm.command("snapshot", "create", "web", "kept")
        t.eventually(lambda: os.path.isdir(folder) and any("machine.partial" in names for _, names, _ in os.walk(folder)), 60,
                     "the machine is being saved", every=0.01)
        process.send_signal(signal.SIGINT)
        t.equal(process.communicate(timeout=60 * t.patience), ("", "vmm: interrupted: snapshot 'kept' was not created\n"))
        t.equal(process.returncode, -signal.SIGINT)
        t.equal(os.listdir(folder), [])
        t.equal(vmm("snapshot", "ls", "-q"), "")
        t.equal(vmm("exec", "web", "echo", "runs"), "runs\n")
        t.equal(vmm("snapshot", "create", "web", "kept"), "kept\n", "the next one")
    finally:
        vmm.end()


# ---- the images that people know, by the commands that they know. Their store is shared: Debian's root, their lowest layer, is in it once.

def with_image(t, name, way):
    vmm = Engine(t, way, t.images.shared("containers"))
    for one in {name, "hello-world"}:
        if not vmm("images", "-q", one):
            vmm("load", "-i", t.images.official(one))
    vmm.warm_up("hello-world")
    return vmm


def answered(t, port, ask):
    """What ask(socket) says once the published port is served."""
    def attempt():
        try:
            with socket.create_connection(("127.0.0.1", port), 10 * t.patience) as client:
                client.settimeout(10 * t.patience)
                return ask(client)
        except OSError:
            return None
    return t.eventually(attempt, 60, f"an answer at port {port}")


@cold_and_warm
def hello_world(t, way):
    vmm = with_image(t, "hello-world", way)
    try:
        output = vmm("run", *SIZE, "hello-world")
        t.contains(output, "\nHello from vmm!\nThis message shows that your installation works.\n")
        t.contains(vmm("ps", "-a", "--format", "{{.Image}} {{.Command}} {{.Status}}"), 'hello-world "/hello" Exited (0) ')
    finally:
        vmm.end()


@cold_and_warm
def python(t, way):
    vmm = with_image(t, "python", way)
    try:
        t.equal(vmm("run", "--rm", *SIZE, "python:3.11", "python3", "-c", "print(1+1)"), "2\n")
        t.equal(vmm("run", "--rm", "-i", *SIZE, "python:3.11", input="import sys; print(sys.version_info[:2])\n"), "(3, 11)\n")
    finally:
        vmm.end()


@cold_and_warm
def nginx(t, way):
    vmm = with_image(t, "nginx", way)
    try:
        vmm("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", *SIZE, "nginx", "nginx", "-g",
            "daemon off; error_log /dev/stderr notice;")
        answered(t, 8080, lambda client: client.sendall(b"GET /none HTTP/1.0\r\n\r\n") or client.recv(1))
        page = host.run("curl", "-sSf", "-A", "a test", "http://127.0.0.1:8080/")
        t.contains(page, "<h1>Welcome to nginx!</h1>")
        # The access log is the container's standard output.
        t.eventually(lambda: '"GET / HTTP/1.1" 200' in vmm("logs", "web", error=""), 10, "the line of the access log")
        t.equal(vmm("stop", "web"), "web\n")
        t.contains(vmm.errors("logs", "web"), "signal 3 (SIGQUIT) received, shutting down")
        t.equal(vmm("inspect", "-f", "{{.Config.StopSignal}} {{.State.ExitCode}}", "web"), "SIGQUIT 0\n")
    finally:
        vmm.end()


@cold_and_warm
def redis(t, way):
    vmm = with_image(t, "redis", way)
    try:
        vmm("run", "-d", "--name", "cache", "-p", "127.0.0.1:6379:6379", *SIZE, "redis")
        t.equal(answered(t, 6379, lambda client: client.sendall(b"PING\r\n") or client.recv(100)), b"+PONG\r\n")
        t.equal(vmm("exec", "cache", "redis-cli", "set", "key", "kept"), "OK\n")
        t.equal(vmm("exec", "cache", "stat", "-c", "%U", "/proc/1"), "redis\n")
        t.equal(vmm("stop", "cache"), "cache\n")
        t.contains(vmm("logs", "cache"), "Received SIGTERM scheduling shutdown")
        # It saved what it had to its working directory.
        vmm("start", "cache")
        t.equal(answered(t, 6379, lambda client: client.sendall(b"GET key\r\n") or client.recv(100)), b"$4\r\nkept\r\n")
    finally:
        vmm.end()


@cold_and_warm
def postgres(t, way):
    vmm = with_image(t, "postgres", way)
    try:
        vmm("run", "--name", "unset", *SIZE, "postgres:15", code=1,
            error="Error: Database is uninitialized and superuser password is not specified")
        vmm("run", "-d", "--rm", "-e", "POSTGRES_PASSWORD=secret", "-p", "5432:5432", "--name", "my-postgres", *SIZE, "postgres:15")

        def query(statement, password="secret"):
            return subprocess.run(["psql", "-h", "127.0.0.1", "-U", "postgres", "-tA", "-c", statement], text=True, capture_output=True,
                                  timeout=60 * t.patience, env={**os.environ, "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"})

        def answers():
            t.contains(vmm("ps", "--format", "{{.Names}}"), "my-postgres")
            return query("select 6 * 7").stdout == "42\n"
        t.eventually(answers, 120, "the database answers", every=1)
        query("create table kept (n int); insert into kept values (1), (2)")
        t.equal(query("select sum(n) from kept").stdout, "3\n")
        t.contains(query("select 1", "wrong").stderr, 'password authentication failed for user "postgres"')
        t.contains(vmm("logs", "my-postgres", error=""), "PostgreSQL init process complete; ready for start up.")
        follower = vmm.command("logs", "-f", "my-postgres")
        t.equal(vmm("stop", "my-postgres"), "my-postgres\n")
        t.contains(follower.communicate(timeout=60 * t.patience)[1], "received fast shutdown request")     # SIGINT's way
        t.equal(vmm("ps", "-a", "--format", "{{.Names}}"), "unset\n", "--rm removes it")
    finally:
        vmm.end()
