"""Results as they come in, and their sum."""
import collections
import contextlib
import sys
import threading
import time

AGAIN = 12      # lines of a failed test's log that are repeated at the end


class Report:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self._lock = threading.Lock()
        self._failures = []     # (name, log)
        self._reasons = collections.Counter()   # why tests were skipped
        self._parts = {}        # seconds, by the name of a part

    def say(self, text):
        with self._lock:
            print(text, flush=True)

    def result(self, name, how, seconds=None, log="", reason="", note=""):
        """how: "ok", "FAILED" or "skipped"; note: what follows the name, in place of seconds and reason."""
        with self._lock:
            for line in log.splitlines() if how == "FAILED" else ():
                print(f"    {line}")
            time = f" ({seconds:.1f} s)" if seconds is not None and how != "skipped" else ""
            print(f"{how} {name}{note or time + (': ' + reason if reason else '')}", flush=True)
            if how == "ok":
                self.passed += 1
            elif how == "FAILED":
                self.failed += 1
                self._failures.append((name, log.splitlines()))
            else:
                self.skipped += 1
                self._reasons[(reason or note).lstrip(": ")] += 1

    @contextlib.contextmanager
    def part(self, name):
        """The time that it takes is told at the end. Parts may run side by side."""
        begin = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._parts[name] = self._parts.get(name, 0) + time.monotonic() - begin

    def lines(self, *prefixes):
        return Lines(self, prefixes)

    def finish(self):
        """What failed once more, why tests were skipped, where the time went, for who reads the end alone; the last line; the exit code."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        sys.stderr.flush()
        for name, log in self._failures:
            print(f"failed: {name}")
            for line in log[-AGAIN:]:
                print(f"    {line}")
        for reason, count in self._reasons.most_common():
            print(f"skipped {count}: {reason}")
        print("minutes: " + ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in self._parts.items()))
        print(f"{self.passed} passed, {self.failed} failed{skipped}", flush=True)
        return 1 if self.failed or not self.passed else 0


class Lines:
    """Takes, line by line, what a program prints that reports as we do: a test's log, indented, then its result. What it
    says besides is passed on."""

    def __init__(self, report, prefixes):
        self._report, self._prefixes = report, prefixes
        self._log = []          # of the test whose result comes next
        self.finished = set()

    def __call__(self, line):
        if line.startswith("    "):
            self._log.append(line[4:])
            return
        log, self._log = self._log, []
        how, _, rest = line.partition(" ")
        name = rest.split(" ")[0].rstrip(":")
        if how in ("ok", "FAILED", "skipped") and name.startswith(self._prefixes):
            self.finished.add(name)
            self._report.result(name, how, log="\n".join(log), note=rest[len(name):])
        else:
            self._report.say("\n".join([*(f"    {one}" for one in log), line]))
