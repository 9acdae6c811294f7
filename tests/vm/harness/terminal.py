"""A process and the terminal that it is on."""
import fcntl
import os
import pty
import select
import struct
import termios

from .suite import Failure


class Terminal:
    """A process whose terminal this is, 60 columns wide."""

    def __init__(self, *command, **environment):
        pid, self.fd = pty.fork()
        if pid == 0:
            fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
            os.execve(command[0], command, {**os.environ, "TERM": "xterm", **environment})
        self.pid, self.text = pid, ""

    def read(self, seconds):
        """Some more of what is said; False at its end."""
        if not select.select([self.fd], [], [], seconds)[0]:
            raise Failure(f"nothing is said in {seconds} s after {self.text!r}")
        try:
            data = os.read(self.fd, 4096)
        except OSError:
            data = b""
        self.text += data.decode()
        return data != b""

    def end(self):
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
