"""Cold boot of Debian's own 6.1 cloud kernel, as shipped, to the first line of the same init."""
import host_memory
import peers

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True


def run(environment):
    guest = peers.Guest(environment.images["stock_kernel"], environment.images["initramfs"],
                        "vmm.run=true")
    for peer in environment.peers:
        host_memory.forget_last_guest()
        with peers.Running(peer, guest) as running:
            yield "first line of init", peer.name, running.wait_for("vmm-guest: init up")
