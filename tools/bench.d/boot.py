"""Cold boot: from the start of the process to the first line of the guest's init, and to its end."""
import re

import host_memory
import peers

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True


def told(peer):
    """Of vmm, one that says when the guest begins to run."""
    if peer.name != "vmm":
        return peer
    plain = peer.command
    return type("Told", (), {"name": "vmm", "command": lambda self, g, d: [*plain(g, d), "--log-level", "info"]})()


def measure(environment, kernel, unpacked=""):
    guest = peers.Guest(kernel, environment.images["initramfs"], "vmm.run=true", unpacked=unpacked)
    for peer in environment.peers:
        peer = told(peer)
        host_memory.forget_last_guest()
        with peers.Running(peer, guest) as running:
            first_line = running.wait_for("vmm-guest: init up")
            yield "first line of init", peer.name, first_line
            # The guest's own clock starts with its kernel; before it lie the monitor and the
            # kernel's first instructions. Init can read it a little later only.
            later = running.wait_for("vmm-guest: clock ") - first_line
            running.wait_for("\n")
            by_clock = float(re.search(rb"clock ([0-9.]+)", running.seen).group(1)) - later
            yield "of it, by the guest's clock", peer.name, by_clock
            runs = re.search(rb"the guest runs, ([0-9.]+) ms", running.seen)
            if runs:
                before = float(runs.group(1)) / 1000
                yield "of it, before the first KVM_RUN", peer.name, before
                yield "of it, exec and the kernel before its clock", peer.name, first_line - by_clock - before
            yield "power off, process ended", peer.name, running.wait_end()


def run(environment):
    yield from measure(environment, environment.images["kernel"])
