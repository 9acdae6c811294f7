"""iperf3 between guest and host: over a tap served by vhost-net, and over the rootless network."""
import re
import subprocess
import time

import shell

NATIVE = False
UNIT = "Mbit/s"
LESS_IS_BETTER = False
SECONDS = 4
TAP = "vmmbench0"


def shell_command(text):
    subprocess.run(["/bin/sh", "-c", text], check=True)


def both_ways(run_in_guest, server):
    """Guest to host, host to guest."""
    for words in ("", "-R"):
        for _ in range(5):  # the server takes a moment between two clients
            output = run_in_guest(f"iperf3 -c {server} -t {SECONDS} -f m {words}")
            found = re.search(r"([0-9.]+) Mbits/sec\s+receiver", output)
            if found:
                break
            time.sleep(1)
        else:
            raise RuntimeError(f"iperf3 says: {output}")
        yield float(found[1])


def measure(environment, peer, kind, address, server, **options):
    iperf = subprocess.Popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
    try:
        with shell.guest(environment, peer, **options) as (_, run_in_guest):
            run_in_guest(f"ip link set eth0 up; ip address add {address} dev eth0; sleep 1")
            to_host, from_host = both_ways(run_in_guest, server)
        yield f"{kind}, guest to host", peer.name, to_host
        yield f"{kind}, host to guest", peer.name, from_host
    finally:
        iperf.kill()
        iperf.wait()


def run(environment):
    shell_command("modprobe -q vhost_net tun || true")
    for peer in environment.peers:
        shell_command(f"ip tuntap add dev {TAP} mode tap vnet_hdr; "
                      f"ip address add 10.9.0.1/24 dev {TAP}; ip link set {TAP} up")
        try:
            yield from measure(environment, peer, "tap with vhost", "10.9.0.2/24", "10.9.0.1",
                               tap=TAP)
        finally:
            shell_command(f"ip link delete {TAP}")
        if peer.name != "firecracker":  # it has no such network
            yield from measure(environment, peer, "user", "10.0.2.15/24", "10.0.2.2",
                               user_forward=(5999, 5999))
