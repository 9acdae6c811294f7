"""Containers without guests: the program, its engine and the supervisors are real; machines are tests/support/fake_machine."""
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time

from harness import test
from harness.images import ROOT

FAKE = os.path.join(ROOT, "tests/support/fake_machine")


class Engine:
    def __init__(self, t, faults=""):
        self.t = t
        machine = t.path("machine")
        os.makedirs(machine)
        for name in ("kernel", "initramfs"):
            t.file(f"machine/{name}")
        self.environment = {**os.environ, "VMM_ROOT": t.path("store"), "VMM_MACHINE": machine, "VMM_MONITOR": FAKE,
                            "FAKE_MACHINE": faults}
        self("load", "-i", t.images.busybox)

    def start(self, *words, **how):
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen([self.t.images.vmm, *words], text=True, env=self.environment, **how)

    def result(self, *words, input=None):
        process = self.start(*words, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE)
        output, errors = process.communicate(input, timeout=30 * self.t.patience)
        return process.returncode, output, errors

    def __call__(self, *words, input=None):
        code, output, errors = self.result(*words, input=input)
        self.t.equal((code, errors), (0, ""), f"vmm {' '.join(words)}")
        return output

    def refused(self, code, text, *words):
        got, output, errors = self.result(*words)
        self.t.equal((got, output), (code, ""), f"vmm {' '.join(words)}: {errors}")
        self.t.contains(errors, text)

    def state(self, name):
        return self("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).strip()

    def directory(self, name):
        return os.path.dirname(self("inspect", "-f", "{{.LogPath}}", name).strip())

    def end(self):
        names = self("ps", "-aq").split()
        if names:
            self("rm", "-f", *names)
        self.t.equal(os.listdir(self.t.path("store/containers")), [], "nothing is left of containers")


def with_engine(function):
    """A test that is given an engine whose containers are removed at its end."""
    def run(t):
        vmm = Engine(t)
        function(t, vmm)
        vmm.end()
    run.__name__, run.__code__ = function.__name__, run.__code__.replace(co_filename=function.__code__.co_filename)
    return test(run)


def machines_of(t):
    """The processes of machines and supervisors of this test's containers."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd").startswith(t.path("store")):
                found.append(int(pid))
        except OSError:
            pass
    return found


# ---- run

@with_engine
def output_input_and_exit_codes(t, vmm):
    t.equal(vmm("run", "--rm", "busybox", "echo", "hi"), "hi\n")
    t.equal(vmm("ps", "-aq"), "")
    t.equal(vmm.result("run", "--name", "one", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"), (7, "out\n", "err\n"))
    t.equal(vmm.result("logs", "one"), (0, "out\n", "err\n"))
    t.equal(vmm("run", "-i", "--rm", "busybox", "cat", input="typed\n"), "typed\n")
    text = "line\n" * 100_000
    t.true(vmm("run", "-i", "--rm", "busybox", "cat", input=text) == text, "half a megabyte there and back")
    t.equal(vmm("run", "--rm", "busybox", "cat"), "", "without -i there is no input")
    t.equal(vmm.result("run", "--rm", "busybox", "sh", "-c", "kill -9 $$")[0], 137)
    code, output, errors = vmm.result("run", "busybox", "nonesuch")
    t.equal((code, output), (127, ""))
    t.contains(errors, 'exec: "nonesuch": executable file not found in $PATH\n\nRun \'vmm run --help\' for more information\n')
    t.equal(vmm.result("run", "busybox", "/etc")[0], 126)


@with_engine
def options_of_run(t, vmm):
    script = "pwd; echo $A $B $C $HOSTNAME"
    environment = t.file("environment", b"# none\nB=file\nC=file\n")
    t.equal(vmm("run", "--rm", "-e", "A=a b", "-e", "C=c", "--env-file", environment, "-w", "/tmp", "-h", "box", "busybox", "sh", "-c",
                script), "/tmp\na b file c box\n")
    t.equal(vmm("run", "--rm", "--entrypoint", "echo", "busybox", "a", "-h", "--help"), "a -h --help\n", "words of the container")
    t.equal(vmm("run", "--rm", "--", "busybox", "echo", "--rm"), "--rm\n")
    cid = t.path("cid")
    name = vmm("run", "-d", "--cidfile", cid, "-l", "a=b", "-l", "c", "busybox", "sleep", "1000").strip()
    with open(cid) as file:
        t.equal(file.read(), name)
    t.equal(vmm("inspect", "-f", "{{json .Config.Labels}}", name), '{"a":"b","c":""}\n')
    vmm.refused(125, "container ID file found", "run", "--cidfile", cid, "busybox")
    with open(os.path.join(vmm.directory(name), "words")) as file:
        t.contains(file.read(), "--disk\nimage.vmdk,format=vmdk,ro\n--disk\nwritable.img,format=raw\n")


@with_engine
def what_is_refused(t, vmm):
    for words, text in {("-v", "a:/b"): "--volume is not supported", ("--restart", "always"): "--restart is not supported",
                        ("--mount", "xx"): "--mount is not supported", ("--network", "web"): "network web is not supported",
                        ("--health-cmd", "xx"): "--health-cmd is not supported", ("--foo",): "unknown flag: --foo",
                        ("-e", "=x"): "invalid environment variable: =x", ("-m", "1x"): "invalid size: '1x'",
                        ("-m", "1m"): "Minimum memory limit allowed is 6MB", ("--cpus", "0"): 'invalid argument "0" for "--cpus" flag',
                        ("-p", "xx"): "invalid containerPort: xx", ("-p", "1.2.3:80:80"): "invalid IP address: 1.2.3",
                        ("-p", "1-2:3-5"): "invalid ranges", ("-w", "rel"): "the working directory 'rel' is invalid",
                        ("--name", "-"): "Invalid container name (-)", ("--ulimit", "x=1"): "invalid ulimit 'x=1'",
                        ("--cap-add", "fly"): 'unknown capability: "CAP_FLY"', ("--stop-signal", "xx"): "invalid signal: xx",
                        ("--pull", "xx"): "invalid pull option: 'xx'", ("--kernel", "/none"): "cannot read the kernel '/none'",
                        ("--detach-keys", "ctrl"): "invalid detach keys 'ctrl'", ("--dns", "xx"): "xx is not an ip address",
                        ("--log-opt", "x=1"): "unknown log opt 'x'", ("--add-host", "xx"): "bad format for add-host"}.items():
        code, output, errors = vmm.result("run", "--rm", *words, "busybox")
        t.true(code in (1, 125) and output == "", f"{words}: {code} {output!r}")
        t.contains(errors, text)
        t.true("\n" not in errors.split("\n\n")[0].rstrip(), f"one sentence: {errors!r}")
    vmm.refused(125, "No such image: none:latest", "run", "--pull", "never", "none")
    vmm.refused(1, "the input device is not a TTY", "run", "-it", "busybox")


@test
def a_machine_that_does_not_start(t):
    vmm = Engine(t, "exits")
    vmm.refused(125, "vmm: cannot open /dev/kvm: Permission denied\n", "run", "--rm", "busybox", "true")
    t.equal(vmm("ps", "-aq"), "")
    vmm.refused(125, "cannot open /dev/kvm", "run", "-d", "--name", "xx", "busybox", "true")
    t.equal(vmm.state("xx"), "created 125")
    os.unlink(t.path("machine/kernel"))
    vmm.refused(125, "no kernel and initramfs for containers: `ninja machine` makes them", "run", "--rm", "busybox", "true")
    vmm.end()


# ---- terminals

def read_until(t, master, text):
    data, deadline = "", time.monotonic() + 20 * t.patience
    while text not in data:
        t.true(time.monotonic() < deadline, f"{text!r} does not come: {data!r}")
        if select.select([master], [], [], 0.1)[0]:
            data += os.read(master, 4096).decode()
    return data


@with_engine
def a_terminal(t, vmm):
    master, slave = pty.openpty()
    process = vmm.start("run", "-it", "--rm", "--name", "tty", "busybox", "sh", "-c", "stty size; tty; read x; echo got $x; read y",
                        stdin=slave, stdout=slave, stderr=slave)
    read_until(t, master, "/dev/pts/")
    os.write(master, b"word\r")
    read_until(t, master, "got word\r\n")
    os.write(master, b"\x10\x11")       # ctrl-p, ctrl-q
    t.equal(process.wait(20 * t.patience), 0, "detached")
    t.equal(vmm("ps", "--format", "{{.Names}} {{.State}}"), "tty running\n")
    again = vmm.start("attach", "--detach-keys", "a,b", "tty", stdin=slave, stdout=slave, stderr=slave)
    time.sleep(0.5)
    os.write(master, b"ab")
    t.equal(again.wait(20 * t.patience), 0)
    os.close(master)
    os.close(slave)


def signal_answered(t, vmm):
    process = vmm.start("run", "--name", "xx", "busybox", "sh", "-c", "trap 'echo int; exit 3' INT; echo ready; while :; do sleep 0.1; done")
    t.equal(process.stdout.readline(), "ready\n")
    process.send_signal(signal.SIGINT)
    t.equal(process.communicate(timeout=20 * t.patience)[0], "int\n")
    t.equal(process.returncode, 3)
    t.equal(vmm.state("xx"), "exited 3")


@with_engine
def signals_reach_the_container(t, vmm):
    signal_answered(t, vmm)


@test
def signals_reach_one_that_has_just_started(t):
    """Its first word is seen before all of its streams are connected."""
    vmm = Engine(t, "late-errors")
    signal_answered(t, vmm)
    vmm.end()


# ---- commands

@with_engine
def from_start_to_rm(t, vmm):
    name = vmm("run", "-d", "--name", "web", "busybox", "sh", "-c", "echo started; exec sleep 1000").strip()
    t.true(re.fullmatch("[0-9a-f]{64}", name), name)
    table = vmm("ps").splitlines()
    t.equal(re.split(r"\s{2,}", table[0]), ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"])
    t.true(re.match(rf'{name[:12]}   busybox   "sh -c echo starte…"   .*   Up .*web$', table[1]), table[1])
    t.equal(vmm("exec", "-e", "A=b", "web", "sh", "-c", "echo $A"), "b\n")
    t.equal(vmm.result("exec", "web", "sh", "-c", "exit 3")[0], 3)
    t.equal(vmm("exec", "-i", "web", "cat", input="in"), "in")
    t.equal(vmm.result("exec", "web", "nonesuch")[0], 127)
    t.equal(vmm("exec", "-d", "web", "sleep", "1000"), "")
    vmm.refused(1, "cannot remove container \"/web\": container is running", "rm", "web")
    vmm.refused(125, 'The container name "/web" is already in use by container "' + name, "run", "--name", "web", "busybox")
    t.equal(vmm("stop", "-t", "5", "web"), "web\n")
    t.equal(vmm.state("web"), "exited 143")
    t.equal(vmm("stop", "web"), "web\n", "again")
    vmm.refused(1, f"container {name} is not running", "exec", "web", "true")
    vmm.refused(1, f"container {name} is not running", "kill", "web")
    t.equal(vmm("restart", "-t", "1", name[:5]), name[:5] + "\n")
    t.equal(vmm("logs", "web"), "started\nstarted\n")
    t.equal(vmm("logs", "-n", "1", "web"), "started\n")
    t.equal(vmm("rename", "web", "other"), "")
    t.equal(vmm("kill", "other"), "other\n")
    t.equal(vmm.state("other"), "exited 137")
    t.equal(vmm("wait", "other"), "137\n")
    t.equal(vmm("rm", "other"), "other\n")
    vmm.refused(1, "No such container: other", "rm", "other")
    vmm.refused(1, "No such object: other", "inspect", "-f", "{{.Id}}", "other")


@with_engine
def what_a_machine_is_asked(t, vmm):
    vmm("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "-p", "9000-9001:90-91/udp", "busybox", "sleep", "1000")
    t.equal(vmm("port", "web"), "80/tcp -> 127.0.0.1:8080\n90/udp -> 0.0.0.0:9000\n91/udp -> 0.0.0.0:9001\n")
    t.equal(vmm("port", "web", "80"), "127.0.0.1:8080\n")
    vmm.refused(1, "no public port '81' published for web", "port", "web", "81")
    t.contains(vmm("ps"), "127.0.0.1:8080->80/tcp, 0.0.0.0:9000->90/udp, 0.0.0.0:9001->91/udp")
    with open(os.path.join(vmm.directory("web"), "words")) as file:
        t.contains(file.read(), "user,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:9000-:90")
    rows = [line.split() for line in vmm("top", "web").splitlines()]
    t.equal(rows[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"])
    t.equal(rows[1][5:], ["?", "00:00:00", "sleep", "1000"])
    t.equal(vmm("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.MemPerc}} {{.PIDs}}"), "web 5MiB / 64MiB 7.81% 1\n")
    t.equal(vmm("pause", "web"), "web\n")
    t.true(re.search(r"Up .* \(Paused\)", vmm("ps")), vmm("ps"))
    vmm.refused(1, "Container web is paused, unpause the container before exec", "exec", "web", "true")
    vmm.refused(1, "Container web is already paused", "pause", "web")
    t.equal(vmm("unpause", "web"), "web\n")
    vmm.refused(1, "Container web is not paused", "unpause", "web")
    t.equal(vmm("stop", "web"), "web\n")
    vmm.refused(1, "is not running", "top", "web")


@with_engine
def ports_of_the_host(t, vmm):
    vmm("run", "-d", "--name", "web", "-p", "80", "-p", "127.0.0.1::81/udp", "busybox", "sleep", "1000")
    found = re.fullmatch(r"80/tcp -> 0\.0\.0\.0:(\d+)\n81/udp -> 127\.0\.0\.1:(\d+)\n", vmm("port", "web"))
    t.true(found and all(1024 <= int(number) for number in found.groups()), vmm("port", "web"))
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        number = taken.getsockname()[1]
        vmm.refused(125, f"Bind for 0.0.0.0:{number} failed: port is already allocated", "run", "--rm", "-p", f"{number}:80", "busybox")
    t.equal(vmm("ps", "-q").split(), vmm("ps", "-aq").split(), "nothing is left of it")


@with_engine
def followed_logs_end_with_the_container(t, vmm):
    vmm("run", "-d", "--name", "xx", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; exit 5")
    waiting = vmm.start("wait", "xx")
    lines = vmm("logs", "-f", "-t", "xx").splitlines()
    t.equal([line.split()[1] for line in lines], ["1", "2", "3"])
    t.true(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z 1$", lines[0]), lines[0])
    t.equal(waiting.communicate(timeout=20 * t.patience)[0], "5\n")
    since = lines[1].split()[0]
    t.equal(vmm("logs", "--since", since, "xx"), "2\n3\n")
    t.equal(vmm("logs", "--until", lines[0].split()[0], "xx"), "1\n")


@with_engine
def filters_and_formats(t, vmm):
    vmm("create", "--name", "made", "-l", "a=1", "busybox", "true")
    vmm.result("run", "--name", "failed", "-l", "a=2", "busybox", "sh", "-c", "exit 4")
    vmm("run", "-d", "--name", "up", "busybox", "sleep", "1000")

    def names(*words):
        return vmm("ps", *words, "--format", "{{.Names}}").split()
    t.equal(names("-a"), ["up", "failed", "made"], "the newest first")
    t.equal(names(), ["up"])
    for words, wanted in {"status=exited": ["failed"], "status=created": ["made"], "label=a": ["failed", "made"], "label=a=1": ["made"],
                          "name=a": ["failed", "made"], "exited=4": ["failed"], "ancestor=busybox": ["up", "failed", "made"],
                          "before=up": ["failed", "made"], "since=made": ["up", "failed"], "volume=x": []}.items():
        t.equal(names("-a", "--filter", words), wanted, words)
    t.equal(names("-n", "2"), ["up", "failed"])
    t.equal(names("-l"), ["up"])
    vmm.refused(1, "invalid filter 'foo'", "ps", "--filter", "foo=bar")
    t.contains(vmm("ps", "--format", "json"), '"Names":"up"')
    t.contains(vmm("container", "prune", "-f"), "Deleted Containers:\n")
    t.equal(names("-a"), ["up"])
    vmm.refused(1, "cannot be forced", "rmi", "-f", "busybox")


@with_engine
def version_and_disk_usage(t, vmm):
    t.equal(vmm("version", "-f", "{{.Server.Version}}"), subprocess.run([t.images.vmm, "--version"], text=True,
                                                                       capture_output=True).stdout.split()[1] + "\n")
    t.contains(vmm("version"), "Client:\n Version:  ")
    vmm("create", "busybox")
    t.equal(re.split(r"\s{2,}", vmm("system", "df").splitlines()[0]), ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"])
    rows = vmm("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Reclaimable}}").splitlines()
    t.equal(rows[0], "Images 1 1 0B (0%)")
    t.true(re.match(r"Containers 1 0 .*B \(100%\)$", rows[1]), rows[1])


# ---- faults

@with_engine
def any_process_may_be_killed(t, vmm):
    vmm("run", "-d", "--name", "xx", "busybox", "sleep", "1000")
    with open(os.path.join(vmm.directory("xx"), "pid")) as file:
        supervisor = int(file.read())
    os.kill(supervisor, signal.SIGKILL)
    t.eventually(lambda: not machines_of(t), 10, "the machine ends with its supervisor")
    t.equal(vmm.state("xx"), "exited 255")
    vmm("start", "xx")
    with open(os.path.join(vmm.directory("xx"), "pid")) as file:
        supervisor = int(file.read())
    machine = next(pid for pid in machines_of(t) if pid != supervisor)
    os.kill(machine, signal.SIGKILL)
    t.equal(vmm("wait", "xx"), "137\n")
    t.equal(vmm.state("xx"), "exited 137")
    client = vmm.start("run", "--name", "yy", "busybox", "sh", "-c", "echo ready; sleep 1000")
    t.equal(client.stdout.readline(), "ready\n")
    client.kill()
    client.communicate()
    t.equal(vmm("ps", "-q", "--filter", "name=yy", "--format", "{{.State}}"), "running\n", "a container outlives its client")
    # A supervisor that hangs.
    with open(os.path.join(vmm.directory("yy"), "pid")) as file:
        os.kill(int(file.read()), signal.SIGSTOP)
    vmm.end()
    t.eventually(lambda: not machines_of(t), 10, "nothing runs any more")
    t.equal(vmm("ps", "-aq"), "")


@test
def a_machine_that_dies_at_its_start(t):
    vmm = Engine(t, "dies")
    code, _, errors = vmm.result("run", "--rm", "busybox", "true")
    t.true(code in (125, 137), f"{code} {errors}")
    t.equal(vmm("ps", "-aq"), "")
    vmm.end()


@test
def a_start_that_is_given_up(t):
    vmm = Engine(t, "silent")
    process = vmm.start("run", "--name", "xx", "busybox", "true")
    t.eventually(lambda: machines_of(t), 10, "the machine starts")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    t.equal(process.wait(20 * t.patience), 130)
    t.eventually(lambda: not machines_of(t), 10, "nothing runs")
    vmm.end()


@with_engine
def commands_at_once(t, vmm):
    vmm("create", "--name", "xx", "busybox", "sleep", "1000")
    starting = [vmm.start("start", "xx") for _ in range(4)]
    codes = [process.wait(30 * t.patience) for process in starting]
    t.equal(codes, [0] * 4, "each finds it running, or starts it")
    t.equal(vmm.state("xx"), "running 0")
    removing = [vmm.start("rm", "-f", "xx") for _ in range(4)]
    for process in removing:
        process.communicate(timeout=60 * t.patience)
    t.equal(vmm("ps", "-aq"), "")
    t.eventually(lambda: not machines_of(t), 10, "nothing runs")


@with_engine
def a_flood_of_output_is_bounded(t, vmm):
    vmm("run", "--name", "xx", "--log-opt", "max-size=100k", "--log-opt", "max-file=2", "busybox", "sh", "-c", "yes | head -c 3000000")
    folder = vmm.directory("xx")
    sizes = [os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder) if name.startswith("log")]
    t.true(len(sizes) == 2 and sum(sizes) <= 200 << 10, f"{sizes}")
    # Who does not read holds the container up, and nothing grows.
    process = vmm.start("run", "--name", "yy", "--log-opt", "max-size=100k", "busybox", "yes")
    t.eventually(lambda: vmm("ps", "-q", "--filter", "name=yy"), 10, "it runs")
    with open(os.path.join(vmm.directory("yy"), "pid")) as file:
        pid = int(file.read())
    time.sleep(1)
    with open(f"/proc/{pid}/status") as file:
        resident = int(re.search(r"RssAnon:\s+(\d+)", file.read()).group(1))
    t.true(resident < 16 << 10, f"the supervisor has {resident} KiB")
    process.kill()
    process.communicate()
