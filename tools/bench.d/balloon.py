"""How much of 512 MiB that a guest frees has left the host's memory within ten seconds."""
import re
import time

import shell

NATIVE = False
UNIT = "percent returned"
LESS_IS_BETTER = False


def resident(pid):
    text = open(f"/proc/{pid}/status", encoding="ascii").read()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024


def run(environment):
    for peer in environment.peers:
        with shell.guest(environment, peer, memory=1024, balloon=True) as (running, run_in_guest):
            pid = running.process.pid
            run_in_guest("mount -o remount,size=600m /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=512")
            full = resident(pid)
            run_in_guest("rm /tmp/x")
            time.sleep(10)
            yield "of 512 MiB freed", peer.name, 100 * (full - resident(pid)) / (512 << 20)
