"""A whole Debian: its boot to a login by its own kernels, the network of the user, an
orderly shutdown."""
import http.server
import re
import socket
import subprocess
import threading
import urllib.request

from harness import host, test
from harness.architecture import CLOCK_SOURCE, DEBIAN, HERE


class Web:
    """An HTTP server on the host's loopback that answers with a text."""

    def __init__(self, text):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *unused):
                pass
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *unused):
        self._server.shutdown()
        self._server.server_close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@test
def login_network_and_power_button(t):
    """The main job: Debian boots to a login, has network by DHCP, is reached by a forwarded port, reboots,
    and shuts down by the power button."""
    port = free_port()
    machine = t.debian("--net", f"user,hostfwd=tcp::{port}-:80,hostname=guest,loopback=on", "--balloon", cpus=2)
    t.contains(machine.run("cat /etc/os-release"), "bookworm")
    t.contains(machine.run("uname -r"), f"cloud-{DEBIAN[HERE]}")
    t.contains(machine.run("findmnt -no SOURCE,OPTIONS /"), "/dev/vda rw")
    t.equal(machine.run("systemctl is-system-running --wait", timeout=120, code=None), "running")
    address = t.eventually(lambda: machine.run("ip -4 -o address show scope global", code=None), 60, "an address by DHCP")
    t.contains(address, "10.0.2.15/24")
    t.contains(machine.run("ip route"), "default via 10.0.2.2")
    t.contains(machine.run("resolvectl dns"), "10.0.2.3")
    # The host reaches a server in the guest.
    machine.run("mkdir /tmp/www; echo served by the guest >/tmp/www/index.html; busybox httpd -p 80 -h /tmp/www")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
        t.equal(page.read(), b"served by the guest\n")
    # The guest reaches one on the host's loopback, through the gateway, as loopback=on says.
    with Web("served by the host") as web:
        t.equal(machine.run(f"curl -sS -m 30 http://10.0.2.2:{web.port}/"), "served by the host")
    counters = machine.metrics("net0")
    t.true(counters["rx_packets"] > 0 and counters["tx_packets"] > 0, f"packets are counted: {counters}")
    # A file outlives a reboot, which is one in this process; so does the network.
    machine.run("echo kept >/root/file")
    machine.console.send("systemctl reboot\n")
    t.log_in(machine)
    t.equal(machine.run("cat /root/file"), "kept")
    t.equal(machine.ctl("status")["reboots"], 1)
    t.eventually(lambda: "10.0.2.15" in machine.run("ip -4 -o address show scope global", code=None), 60, "an address by DHCP")
    with Web("again") as web:
        t.equal(machine.run(f"curl -sS -m 30 http://10.0.2.2:{web.port}/"), "again")
    t.equal(machine.run("systemctl --failed --no-legend"), "", "failed units")
    if HERE == "x86_64":
        machine.ctl("power-button")
    else:       # Debian's arm64 cloud kernel has no driver for a device tree's button: generic_kernel_6_12
        machine.console.send("systemctl poweroff\n")
    machine.ends(0, timeout=90)
    t.contains(machine.console.text, "Power down")
    check = subprocess.run(["e2fsck", "-fn", t.path("root.img")], text=True, capture_output=True)
    t.equal(check.returncode, 0, f"e2fsck of the root image ({check.stdout}{check.stderr})")


@test(only="x86_64")
def signal_shuts_down(t):
    machine = t.debian()
    machine.signal()
    machine.ends(0, timeout=90)
    t.contains(machine.console.text, "Power down")


@test
def network_that_is_cut_off(t):
    """restrict=on: nothing outside is reached, forwarded ports work; another network's addresses."""
    port = free_port()
    with Web("not to be seen") as web:
        machine = t.shell("--net", f"user,restrict=on,network=192.168.77.0/24,hostfwd=tcp:127.0.0.1:{port}-:8080")
        machine.run("ip link set eth0 up; ip address add 192.168.77.15/24 dev eth0; ip route add default via 192.168.77.2")
        text = machine.run(f"curl -sS -m 5 http://192.168.77.2:{web.port}/ 2>&1; echo code $?")
        t.true(re.search("code (7|28)$", text), f"curl cannot connect, or waits in vain: {text}")
        t.true("not to be seen" not in machine.console.text, "a restricted guest reaches the host's loopback")
        machine.run("mkdir -p /tmp/www; echo forwarded >/tmp/www/index.html; busybox httpd -p 8080 -h /tmp/www")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            t.equal(page.read(), b"forwarded\n")
        machine.power_off()


@test
def network_process_dies(t):
    """The machine goes on, and its network comes back."""
    machine = t.small("--net", "user")
    machine.run("ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0; ping -c 1 -W 10 10.0.2.2")
    (pid,) = machine.children()
    host.run("kill", "-KILL", str(pid))
    t.eventually(lambda: "network" in machine.errors(), 10, "a word about the network")
    machine.run("ping -c 30 -i 1 -W 5 10.0.2.2 | grep -m 1 'bytes from'", timeout=90)
    t.eventually(lambda: "up again" in machine.errors(), 10, "a word about the network")
    t.true(pid not in machine.children(), "another process")
    machine.power_off()


def stock(t, version, flavour="cloud-"):
    kernel, initrd = t.images.path(f"VMM_TEST_{version}"), t.images.path(f"VMM_TEST_{version}_INITRD")
    machine = t.debian("--net", "user", kernel=("--kernel", kernel, "--initrd", initrd), cpus=2)
    t.contains(machine.run("uname -r"), f"{flavour}{DEBIAN[HERE]}")
    t.equal(machine.run("nproc"), "2")
    t.contains(machine.run("findmnt -no SOURCE,OPTIONS /"), "/dev/vda rw")
    t.eventually(lambda: "10.0.2.15" in machine.run("ip -4 -o address show scope global", code=None), 60, "an address by DHCP")
    t.equal(machine.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource"), CLOCK_SOURCE[HERE])
    if flavour:
        machine.console.send("systemctl poweroff\n")
    else:
        machine.signal()    # by the power button
    machine.ends(0, timeout=90)


@test(only="x86_64")
def stock_kernel_6_1(t):
    stock(t, "STOCK61")


@test(only="aarch64")
def generic_kernel_6_12(t):
    stock(t, "GENERIC612", flavour="")
