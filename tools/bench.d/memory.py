"""Private memory of the monitor outside of the guest's, with an idle guest of 256 MiB."""
import re
import time

import peers

NATIVE = False
UNIT = "MiB"
LESS_IS_BETTER = True


def private_outside(pid, guest_bytes):
    """Private bytes of all mappings but the guest's memory, the one that is as large as it."""
    total = size = 0
    for line in open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace"):
        header = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if header:
            size = int(header[2], 16) - int(header[1], 16)
        elif line.startswith(("Private_Clean:", "Private_Dirty:")) and size < guest_bytes:
            total += int(line.split()[1]) * 1024
    return total


def run(environment):
    guest = peers.Guest(environment.images["kernel"], environment.images["initramfs"],
                        "vmm.run=sleep%2060")
    for peer in environment.peers:
        with peers.Running(peer, guest) as running:
            running.wait_for("vmm-guest: init up")
            time.sleep(2)  # let it become idle
            outside = private_outside(running.process.pid, guest.memory << 20)
            yield "private outside of the guest", peer.name, outside / (1 << 20)
