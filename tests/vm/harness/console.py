"""A guest's console: what it prints is collected by a thread, so that the guest never waits for us."""
import base64
import os
import re
import threading
import time

from .suite import Failure

# A line that the guest's shell reads in canonical mode is cut at 4095 bytes.
LINE_LIMIT = 4000
# Runs what it reads, line by line: no prompt, no echo, no line editing between us and the output.
SERVE = "stty -echo; while IFS= read -r line; do eval \"$line\"; done"


def one_line(command):
    """The command as one line of shell; with line ends in it, or a long one, as base64."""
    if "\n" in command:
        command = f'eval "$(echo {base64.b64encode(command.encode()).decode()} | base64 -d)"'
    if len(command) > LINE_LIMIT:
        raise ValueError(f"a command of {len(command)} bytes is too long for the guest's console")
    return command


class Console:
    def __init__(self, read_fd, write_fd, alive, patience):
        self.text = ""          # all that the guest has printed, without carriage returns
        self._position = 0      # what expect() has consumed
        self._read_fd, self._write_fd = read_fd, write_fd
        self._alive, self._patience = alive, patience
        self._changed = threading.Condition()
        self._ended = False
        self._count = 0
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self):
        while True:
            try:
                data = os.read(self._read_fd, 65536)
            except OSError:     # EIO of a pseudo-terminal that was closed, ECONNRESET
                data = b""
            with self._changed:
                self.text += data.decode(errors="replace").replace("\r", "")
                self._ended = self._ended or not data
                self._changed.notify_all()
            if not data:
                return

    def close(self):
        if self._read_fd is None:
            return
        self._thread.join(5)
        for fd in {self._read_fd, self._write_fd}:
            os.close(fd)
        self._read_fd = self._write_fd = None

    def wait_for_end(self, timeout=10):
        self._thread.join(timeout)

    def send(self, text):
        data = text.encode()
        while data:
            data = data[os.write(self._write_fd, data):]

    def expect(self, pattern, timeout=60):
        """Waits for the pattern (a regular expression) in what was printed since the last match."""
        deadline = time.monotonic() + timeout * self._patience
        with self._changed:
            while True:
                match = re.compile(pattern, re.MULTILINE).search(self.text, self._position)
                if match:
                    self._position = match.end()
                    return match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "its console ended" if self._ended else f"within {timeout * self._patience:.0f} s"
                    raise Failure(f"the guest did not print /{pattern}/ ({why}); it printed:\n{self.tail()}")
                self._changed.wait(min(left, 1))

    def silent(self, seconds):
        """True if nothing is printed for that time."""
        with self._changed:
            before = len(self.text)
            self._changed.wait_for(lambda: len(self.text) > before, seconds)
            return len(self.text) == before

    def tail(self, lines=25):
        return "\n".join("    | " + line for line in self.text.splitlines()[-lines:])

    # ---- a shell at the other end

    def serve(self):
        """Turns the shell that reads the console into one that run() talks to."""
        self.send(SERVE + "\n")
        self.run("true")

    def start(self, command):
        """Lets the guest run a command; finish() with the number returned awaits it."""
        self._count += 1
        line = one_line(command)
        # The markers are split so that an echo of this line is not taken for the output.
        self.send(f'echo "@@""BEGIN{self._count}"; {{ {line}; }} </dev/null 2>&1; echo "@@""END{self._count} $?"\n')
        return self._count

    def finish(self, number, timeout=60):
        match = self.expect(rf"@@BEGIN{number}\n((?:.|\n)*?)@@END{number} (\d+)\n", timeout)
        return match.group(1).strip(), int(match.group(2))

    def run(self, command, timeout=60, code=0):
        """Runs a shell command in the guest; its output. Fails if it does not exit with `code`."""
        output, result = self.finish(self.start(command), timeout)
        if code is not None and result != code:
            raise Failure(f"in the guest, `{command}` exited with {result}, not {code}:\n    {output}")
        return output
