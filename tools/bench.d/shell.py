"""A guest of the Debian image whose init is a shell on the console: no services in the way."""
import contextlib
import os
import shutil
import tempfile

import peers as monitors

PROMPT = "bench-prompt:"
SETUP = ("mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /tmp; "
         "stty -echo; ip link set lo up")


@contextlib.contextmanager
def guest(environment, peer, **options):
    """A running guest, and run(command) -> its output."""
    directory = tempfile.mkdtemp(prefix="vmm-bench-", dir="/dev/shm")
    try:
        root = os.path.join(directory, "root.img")
        os.system(f"cp --sparse=always {environment.images['rootfs']} {root}")
        disks = [root, *options.pop("disks", [])]
        machine = monitors.Guest(environment.images["kernel"], words=f"init=/bin/sh {monitors.TICKING}",
                                 disks=disks, **options)
        with monitors.Running(peer, machine) as running:
            running.wait_for("# ")
            running.type(f"{SETUP}; PS1={PROMPT}")
            running.wait_for("\n" + PROMPT)

            def run(command, patience=120):
                start = running.consumed
                running.type(command)
                running.wait_for(PROMPT, patience)
                return running.seen[start:running.consumed].decode(errors="replace")

            yield running, run
    finally:
        shutil.rmtree(directory)
