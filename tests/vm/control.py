"""The control socket and `vmm ctl`."""
import json
import os
import shutil
import socket
import stat
import time

from harness import host, test

MIB = 1 << 20


class Client:
    """A connection that speaks version 2, as any client may."""

    def __init__(self, machine):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60 * machine.t.patience)
        self.socket.connect(machine.control)
        self.lines = self.socket.makefile("r")
        self.last = 0
        self.events = []

    def send(self, command, **arguments):
        self.last += 1
        request = {"version": 2, "id": self.last, "command": command, "arguments": arguments}
        self.socket.sendall((json.dumps(request) + "\n").encode())
        return self.last

    def read(self, key, value):
        """The next line that has this; events before it are kept."""
        for line in self.lines:
            message = json.loads(line)
            if message.get(key) == value:
                return message
            if "event" in message:
                self.events.append(message)
        raise AssertionError(f"no {key} {value}: the connection ended after {self.events}")

    def call(self, command, **arguments):
        return self.read("id", self.send(command, **arguments))


def fill(machine):
    """Memory that is not zero, and costs time to write and to hash."""
    machine.run("mkdir -p /tmp/full && mount -t tmpfs -o size=120M none /tmp/full && head -c 4000000 /bin/busybox >/tmp/piece; "
                "i=0; while [ $i -lt 60 ]; do cat /tmp/piece; i=$((i+1)); done | head -c 90000000 >/tmp/full/x", timeout=120)


def answers_while(client, done, slowest):
    """Asks for the status again and again until `done`; how often, and the longest that an answer took."""
    count, longest = 0, 0
    while not done():
        begin = time.monotonic()
        answer = client.call("status")
        longest = max(longest, time.monotonic() - begin)
        assert answer["ok"], answer
        count += 1
    assert longest < slowest, f"an answer took {longest * 1000:.0f} ms, of {count}"
    return count, longest


def note(text):
    print(f"    {text}", flush=True)


def slowest():
    return 1.0 if host.is_emulated() else 0.05      # its one processor also writes the snapshot


@test
def socket_is_ours_alone(t):
    machine = t.small()
    t.equal(stat.S_IMODE(os.stat(machine.control).st_mode), 0o600, "the socket's mode")
    machine.power_off()
    t.true(not os.path.exists(machine.control), "the socket is gone with the machine")


@test
def status(t):
    disk = t.file("disk.img", size=1 << 20)
    machine = t.small("--name", "one", "--disk", f"{disk},ro", cpus=2, mem="128M")
    status = machine.ctl("status")
    for key, value in {"state": "running", "name": "one", "pid": machine.pid, "cpus": 2, "memory": 128 << 20,
                       "reboots": 0, "disks": [{"path": disk, "read_only": True}]}.items():
        t.equal(status[key], value, key)
    t.true(status["uptime_ms"] > 0, "uptime")
    machine.power_off()


@test
def pause_and_resume(t):
    machine = t.small(cpus=2)
    machine.console.send("i=0; while :; do i=$((i+1)); echo tick $i; done &\n")
    machine.console.expect("tick 5")
    machine.ctl("pause")
    machine.ctl("pause")        # once more is no mistake
    t.equal(machine.ctl("status")["state"], "paused")
    # The output that was on its way comes; then there is silence.
    t.eventually(lambda: machine.console.silent(0.3), 10, "silence of a paused guest")
    before = len(machine.console.text)
    exits = machine.metrics()["vcpus"]
    t.true(machine.console.silent(1), "a paused guest prints nothing")
    t.equal(machine.metrics()["vcpus"], exits, "exits of a paused guest")
    machine.ctl("resume")
    machine.console.expect("tick")
    t.eventually(lambda: len(machine.console.text) > before + 100, 10, "output of a guest that goes on")
    t.equal(machine.ctl("status")["state"], "running")
    machine.ctl("stop")
    machine.ends(5)


@test
def stop_ends_at_once(t):
    machine = t.small()
    machine.ctl("stop")
    t.contains(machine.ends(5, timeout=15), "control socket")


@test
def stop_ends_a_paused_machine(t):
    machine = t.small()
    machine.ctl("pause")
    machine.ctl("stop")
    machine.ends(5, timeout=15)


@test
def metrics(t):
    machine = t.small("--disk", t.file("disk.img", size=8 << 20), "--net", "user", "--balloon", mem="256M")
    before = machine.metrics("blk0")
    machine.run("dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null")
    after = machine.metrics()
    block = after["devices"]["blk0"]
    t.between(block["bytes_written"] - before["bytes_written"], 4 << 20, 5 << 20, "bytes written")
    t.true(block["flushes"] > before["flushes"], "a flush is counted")
    # x86-64's console is at ports, aarch64 has none.
    t.true(after["vcpus"][0]["io"] + after["vcpus"][0]["mmio"] > 0, "exits are counted")
    memory = after["memory"]
    t.equal(memory["guest"], 256 << 20)
    t.true(0 < memory["guest_resident"] <= memory["resident"], f"memory makes sense: {memory}")
    machine.power_off()


@test
def refuses_what_it_does_not_know(t):
    machine = t.small()
    t.contains(machine.ctl("pauze", code=1), "did you mean 'pause'")
    t.contains(machine.ctl("balloon", "64M", code=1), "without --balloon")
    t.contains(machine.ctl("balloon", "much", code=1), "without --balloon")
    t.contains(machine.ctl("balloon", code=1), "SIZE is missing")
    machine.run("true")
    machine.power_off()


@test
def answers_while_a_machine_is_saved(t):
    machine = t.small()
    fill(machine)
    client, watcher = Client(machine), Client(machine)
    t.equal(watcher.call("events")["result"]["state"], "running")
    job = client.call("snapshot", directory=t.path("saved"))["result"]["job"]
    t.contains(client.call("snapshot", directory=t.path("more"))["error"], "a snapshot is being taken")
    t.equal([one["kind"] for one in client.call("jobs")["result"]["jobs"]], ["snapshot"])
    count, longest = answers_while(client, lambda: not client.call("jobs")["result"]["jobs"], slowest())
    note(f"{count} answers during a save, the longest took {longest * 1000:.1f} ms")
    t.true(count > 3, "it was asked meanwhile")
    t.equal(client.call("wait", job=job)["result"]["directory"], t.path("saved"))
    watcher.read("event", "job-finished")
    t.true("job-progress" in [event["event"] for event in watcher.events], "progress is told")
    t.equal(client.call("status")["result"]["state"], "running")
    # What was asked for meanwhile is done afterwards.
    job = client.call("snapshot", directory=t.path("again"))["result"]["job"]
    t.true(client.call("pause")["ok"], "pause is answered at once")
    t.true(client.call("wait", job=job)["ok"], "saved")
    watcher.read("event", "paused")
    client.call("resume")
    watcher.read("event", "resumed")
    machine.run("true")
    machine.power_off()
    t.equal(watcher.read("event", "ended")["code"], 0)


@test
def stop_cancels_a_save(t):
    for how in ("stop", "cancel"):
        machine = t.small()
        fill(machine)
        client = Client(machine)
        job = client.call("snapshot", directory=t.path("saved"))["result"]["job"]
        t.eventually(lambda: any(name.endswith(".partial") for name in os.listdir(os.path.dirname(t.path("x")))), 30, "a save", every=0.001)
        begin = time.monotonic()
        if how == "stop":
            waiting = client.send("wait")
            client.send("stop")
            t.equal(client.read("id", waiting)["result"]["code"], 5)
            machine.ends(5)
            took = time.monotonic() - begin
        else:
            t.true(client.call("cancel", job=job)["ok"], "it is cancelled")
            t.contains(client.call("wait", job=job)["error"], "cancelled")
            took = time.monotonic() - begin
            machine.run("true")
            machine.power_off()
        note(f"{how}: over in {took * 1000:.0f} ms")
        t.true(took < (5 if host.is_emulated() else 1), f"{how} took {took:.2f} s")
        left = [name for name in os.listdir(os.path.dirname(t.path("x"))) if "saved" in name]
        t.equal(left, [], "of the snapshot nothing stays")


@test
def reset_waits_for_a_save(t):
    machine = t.small()
    fill(machine)
    client, watcher = Client(machine), Client(machine)
    watcher.call("events")
    job = client.call("snapshot", directory=t.path("saved"), live=True)["result"]["job"]
    machine.console.send("echo b >/proc/sysrq-trigger\n")
    answers_while(client, lambda: not client.call("jobs")["result"]["jobs"], slowest())
    t.true(client.call("wait", job=job)["ok"], "it was saved")
    t.equal(watcher.read("event", "started")["reboots"], 1)
    machine.console.expect("vmm-guest: init up")
    machine.run("true")
    t.equal(client.call("status")["result"]["reboots"], 1)
    machine.power_off()


@test
def hanging_disk_ends_it(t):
    """The file system below a disk is frozen: what the guest wrote never comes to its end."""
    image, folder = t.file("image", size=64 * MIB), t.path("mounted")
    os.mkdir(folder)
    host.run("mkfs.ext4", "-q", image)
    host.run("mount", "-o", "loop", image, folder)
    try:
        with open(os.path.join(folder, "disk"), "wb") as disk:
            disk.write(bytes(8 * MIB))
        os.sync()
        machine = t.small("--disk", os.path.join(folder, "disk"))
        host.run("fsfreeze", "--freeze", folder)
        try:
            machine.console.send("dd if=/dev/zero of=/dev/vda bs=64k count=1 oflag=direct &\n")
            time.sleep(2)
            client = Client(machine)
            job = client.call("snapshot", directory=t.path("saved"))["result"]["job"]
            t.true(client.call("status")["ok"], "it answers meanwhile")
            ended = client.read("id", client.send("wait"))["result"]
            t.equal(ended, {"code": 4, "reason": "device blk0 does not stop within 30 s"}, f"its end, with job {job}")
        finally:
            host.run("fsfreeze", "--unfreeze", folder)
        t.contains(machine.ends(4), "vmm: device blk0 does not stop within 30 s")
    finally:
        host.run("umount", folder)


@test
def what_comes_after_the_last_save_is_refused(t):
    """It would go on with a guest whose state is saved already."""
    machine = t.small()
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(60 * t.patience)
    link.connect(machine.control)
    link.sendall(json.dumps({"version": 1, "command": "snapshot", "argument": t.path("saved"), "options": {"stop": True}}).encode() +
                 b'\n{"version": 1, "command": "resume"}\n')
    answers = [json.loads(line) for line in link.makefile("r")]
    t.equal([answer["ok"] for answer in answers], [True, False], "the answers")
    t.equal(answers[1]["error"], "the machine is ending")
    machine.ends(0)


@test
def failed_reboot_ends_it(t):
    kernel = t.path("kernel")
    shutil.copy(t.images.kernel, kernel)
    machine = t.small(kernel=kernel)
    client = Client(machine)
    os.truncate(kernel, 0)     # of another name or gone, it would still be what the guest booted
    waiting = client.send("wait")
    machine.console.send("echo b >/proc/sysrq-trigger\n")
    t.equal(client.read("id", waiting)["result"]["code"], 4)
    t.contains(machine.ends(4), "cannot reboot: what the guest booted before: ")
