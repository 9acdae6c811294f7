"""`vmm ctl` beside a machine of a few lines, which speaks the control protocol (src/protocol/CONTROL.md)."""
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

from harness import test

MIB = 1 << 20


class Fake:
    """Serves one job, which ends after `steps` steps of 0.1 s, or when it is cancelled."""

    def __init__(self, t, steps=10, versions=(1, 2)):
        self.path = t.path("fake")
        self.steps = steps
        self.versions = versions
        self.requests = []
        self.cancelled = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.unlink(self.path)

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection):
        lock = threading.Lock()

        def say(**message):
            with lock:
                try:
                    connection.sendall((json.dumps(message) + "\n").encode())
                except OSError:
                    pass    # who asked is gone

        for line in connection.makefile("r"):
            request = json.loads(line)
            self.requests.append(request)
            if request["version"] not in self.versions:
                say(ok=False, error="version 2 of the control protocol is not spoken here, 1 is")
            elif request["version"] == 1:
                say(ok=True, result={"directory": request["argument"], "old": True})
            else:
                self._answer(request, say)

    def _answer(self, request, say):
        number, command = request["id"], request["command"]
        if command == "snapshot":
            say(id=number, ok=True, result={"job": 7})
        elif command == "wait" and request.get("arguments", {}).get("job") == 7:
            threading.Thread(target=self._work, args=[number, say], daemon=True).start()
        elif command == "wait":
            say(id=number, ok=True, result={"code": 2, "reason": "over"})
        elif command == "cancel":
            self.cancelled.set()
            say(id=number, ok=True)
        elif command == "events":
            say(id=number, ok=True, result={"state": "running"})
            if self.steps == 0:
                say(event="paused", time_ms=1)
                say(event="something new", time_ms=2)
                say(event="ended", time_ms=3, code=0, reason="over")
        else:
            say(id=number, ok=True, result={})

    def _work(self, number, say):
        for step in range(self.steps):
            if self.cancelled.wait(0.1):
                return say(id=number, ok=False, error="cancelled")
            say(event="job-progress", time_ms=1, job=7, kind="snapshot", phase="writing memory",
                done=step * MIB, total=self.steps * MIB, cancelled=False)
        say(id=number, ok=True, result={"directory": "/a"})


def ctl(t, fake, *words, code=0):
    result = subprocess.run([t.images.vmm, "ctl", fake.path, *words], text=True, capture_output=True, stdin=subprocess.DEVNULL)
    t.equal(result.returncode, code, f"vmm ctl {' '.join(words)}: {result.stderr}")
    return result


@test
def snapshot_says_how_far_it_is(t):
    with Fake(t) as fake:
        quiet = ctl(t, fake, "snapshot", "/a")
        t.equal((json.loads(quiet.stdout), quiet.stderr), ({"directory": "/a"}, ""), "without a terminal it is quiet")
        plain = ctl(t, fake, "snapshot", "/a", "--progress", "plain", "--live")
        t.true(re.search(r"^writing memory: \d+%, .* of 10 MiB", plain.stderr, re.M), f"plain lines: {plain.stderr!r}")
        t.equal(ctl(t, fake, "snapshot", "/a", "--progress", "none").stderr, "", "none")
        asked = [one for one in fake.requests if one["command"] == "snapshot"][1]
        t.equal(asked["arguments"], {"directory": "/a", "incremental": "", "live": True, "stop": False}, "what was asked")
        t.contains(ctl(t, fake, "snapshot", "/a", "--progress", "bra", code=1).stderr, "expected auto, plain or none")


@test
def snapshot_draws_a_bar_on_a_terminal(t):
    with Fake(t) as fake:
        master, slave = pty.openpty()
        process = subprocess.Popen(["setsid", "--ctty", "--wait", t.images.vmm, "ctl", fake.path, "snapshot", "/a"], stdin=slave,
                                   stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"})
        os.close(slave)
        drawn = b""
        deadline = time.monotonic() + 30 * t.patience
        while b"%" not in drawn and time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                drawn += os.read(master, 4096)
        process.communicate(timeout=60 * t.patience)
        t.equal(process.returncode, 0, "it was saved")
        t.true(re.search(rb"\rwriting memory .*\[=*>? *\] +\d+%", drawn), f"a bar: {drawn!r}")


@test
def interrupted_snapshot_is_cancelled(t):
    for number in (signal.SIGINT, signal.SIGTERM):
        with Fake(t, steps=600) as fake:
            process = subprocess.Popen([t.images.vmm, "ctl", fake.path, "snapshot", "/a"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            t.eventually(lambda: any(one["command"] == "wait" for one in fake.requests), 30, "it waits for the job")
            process.send_signal(number)
            out, errors = process.communicate(timeout=60 * t.patience)
            t.true(fake.cancelled.is_set(), "the job was cancelled")
            t.equal((process.returncode, out, errors), (-number, "", "vmm: interrupted: '/a' was not saved\n"), "how it ended")


@test
def snapshot_of_an_older_machine(t):
    with Fake(t, versions=(1,)) as fake:
        t.equal(json.loads(ctl(t, fake, "snapshot", "/a", "--live").stdout), {"directory": "/a", "old": True}, "its answer")
        t.equal(fake.requests[-1]["options"], {"live": "true"}, "what it was asked")
        t.contains(ctl(t, fake, "jobs", code=1).stderr, "version 2 of the control protocol")


@test
def events_until_the_end(t):
    with Fake(t, steps=0) as fake:
        lines = [json.loads(line)["event"] for line in ctl(t, fake, "events").stdout.splitlines()]
        t.equal(lines, ["paused", "something new", "ended"], "each line as it came")


@test
def wait_jobs_and_cancel(t):
    with Fake(t, steps=1) as fake:
        t.equal(json.loads(ctl(t, fake, "wait").stdout), {"code": 2, "reason": "over"}, "the end")
        t.equal(json.loads(ctl(t, fake, "wait", "7").stdout), {"directory": "/a"}, "what the job came to")
        ctl(t, fake, "cancel", "7")
        t.equal(fake.requests[-1]["arguments"], {"job": 7}, "what was asked")
        ctl(t, fake, "jobs")
        t.contains(ctl(t, fake, "cancel", "first", code=1).stderr, "'first'")
        t.contains(ctl(t, fake, "cancel", code=1).stderr, "JOB is missing")
        t.contains(ctl(t, fake, "job", code=1).stderr, "did you mean 'jobs'?")
        t.contains(ctl(t, fake, "cancell", "1", code=1).stderr, "did you mean 'cancel'?")


@test
def ports_are_asked_for_as_they_are_typed(t):
    with Fake(t) as fake:
        ctl(t, fake, "publish", "net0", "tcp::8080-:80", "udp::5353-:53")
        t.equal((fake.requests[-1]["command"], fake.requests[-1]["arguments"]),
                ("publish", {"component": "net0", "ports": ["tcp::8080-:80", "udp::5353-:53"]}), "what was asked")
        ctl(t, fake, "unpublish", "net0", "tcp::8080")
        t.equal((fake.requests[-1]["command"], fake.requests[-1]["arguments"]),
                ("unpublish", {"component": "net0", "ports": ["tcp::8080"]}), "what was asked")
        t.contains(ctl(t, fake, "publish", "net0", code=1).stderr, "PORT... is missing")
        t.contains(ctl(t, fake, "publish", code=1).stderr, "NET is missing")


@test
def fork_says_how_far_it_is_and_is_cancelled(t):
    """Its snapshot is a job as any other."""
    with Fake(t) as fake:
        said = ctl(t, fake, "fork", t.path("forked"), "--progress", "plain", code=1).stderr
        t.true(re.search(r"^writing memory: \d+%, .* of 10 MiB", said, re.M), f"plain lines: {said!r}")
        asked = [one for one in fake.requests if one["command"] == "snapshot"][0]
        t.equal((asked["version"], asked["arguments"]),
                (2, {"directory": t.path("forked"), "incremental": "", "live": True, "stop": False}), "what was asked")
        t.true(not os.path.exists(t.path("forked.forks")), "this one saved nothing, and so nothing is left")
    with Fake(t, steps=600) as fake:
        process = subprocess.Popen([t.images.vmm, "ctl", fake.path, "fork", t.path("forked")], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        t.eventually(lambda: any(one["command"] == "wait" for one in fake.requests), 30, "it waits for the job")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60 * t.patience)
        t.true(fake.cancelled.is_set(), "the job was cancelled")
        t.equal((process.returncode, out, errors),
                (-signal.SIGINT, "", f"vmm: interrupted: '{t.path('forked')}' was not saved, and no copy started\n"), "how it ended")
        t.true(not os.path.exists(t.path("forked.forks")), "nothing is left")
