"""Processes that the tests start: bounded in time, and ended with us whatever happens."""
import ctypes
import os
import signal
import subprocess
import threading
import time

_running = set()
_lock = threading.Lock()
_libc = ctypes.CDLL(None, use_errno=True)


def _follow_parent():
    """In the child: a group of its own, which dies when we are killed."""
    os.setsid()
    _libc.prctl(1, signal.SIGTERM)      # PR_SET_PDEATHSIG


def start(command, **how):
    process = subprocess.Popen(command, text=True, errors="replace", stdin=subprocess.DEVNULL, preexec_fn=_follow_parent, **how)
    with _lock:
        _running.add(process)
    return process


def end(process, patience=10):
    """Ends the process and its group, first kindly."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)      # what it left in its group
    except ProcessLookupError:
        pass
    with _lock:
        _running.discard(process)


def end_all():
    with _lock:
        left = list(_running)
    for process in left:
        end(process, 3)


def run(command, timeout, **how):
    """(exit code or None after the timeout, output of both streams, seconds)"""
    begin = time.monotonic()
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
    try:
        output, _ = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        end(process)
        output, code = process.communicate()[0], None
    finally:
        with _lock:
            _running.discard(process)
    return code, output, time.monotonic() - begin


def lines(command, timeout, each, silence=float("inf"), **how):
    """Runs a command and calls each(line) as it prints; the exit code, None when it takes more seconds than `timeout`, or prints nothing
    for `silence`."""
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
    over, late = threading.Event(), []
    limit = time.monotonic() + timeout
    heard = [time.monotonic()]

    def watch():
        while (left := min(limit, heard[0] + silence) - time.monotonic()) > 0:
            if over.wait(min(left, threading.TIMEOUT_MAX)):
                return
        late.append(True)
        end(process)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        for line in process.stdout:
            heard[0] = time.monotonic()
            each(line.rstrip("\n"))
        process.wait()
    finally:
        over.set()
        watcher.join()
        with _lock:
            _running.discard(process)
    return None if late else process.returncode
