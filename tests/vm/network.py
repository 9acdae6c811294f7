"""The network card, by tap and bridge, and by a network of kind user. (More of that is in debian.py.)"""
import json
import os
import signal
import socket
import threading

from harness import Skip, host, test


def metrics_of(machine):
    return machine.metrics("net0")


def configure(machine, address, device="eth0"):
    machine.run(f"ip link set {device} up; ip address add {address}/24 dev {device}")


def two_machines_talk(t, keys, multi_queue=False, cpus=1):
    with host.Bridge("vmmbr0", ["vmmtap0", "vmmtap1"], multi_queue):
        machines = []
        for i in range(2):
            machine = t.small("--net", f"tap=vmmtap{i},mac=52:54:00:00:00:0{i}{keys}", cpus=cpus)
            configure(machine, f"10.9.0.{i + 1}")
            machines.append(machine)
        first, second = machines
        t.equal(first.run("cat /sys/class/net/eth0/address"), "52:54:00:00:00:00", "the address given")
        first.run("ping -c 3 -i 0.2 -W 5 10.9.0.2", timeout=30)
        # Both ways at once, and whole.
        for machine in machines:
            machine.run("mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/data bs=1M count=4 2>/dev/null; httpd -p 80 -h /tmp/www", timeout=120)
        numbers = [machine.console.start(f"wget -q -O /tmp/in http://10.9.0.{2 - i}/data; sha256sum </tmp/in; sha256sum </tmp/www/data")
                   for i, machine in enumerate(machines)]
        sums = [machine.console.finish(number, 120)[0].split() for machine, number in zip(machines, numbers)]
        t.equal(sums[0][0], sums[1][2], "what the first received")
        t.equal(sums[1][0], sums[0][2], "what the second received")
        counters = metrics_of(first)
        for machine in machines:
            machine.power_off()
        return counters


@test
def two_machines_over_a_bridge(t):
    counters = two_machines_talk(t, ",vhost=off")
    t.equal(counters["vhost"], False)
    t.true(counters["tx_bytes"] > 4 << 20 and counters["rx_bytes"] > 4 << 20, f"bytes are counted: {counters}")


@test
def two_machines_with_vhost(t):
    t.equal(two_machines_talk(t, ",vhost=on")["vhost"], True)


@test
def two_machines_with_queues(t):
    two_machines_talk(t, ",queues=2,vhost=off", multi_queue=True, cpus=2)


@test
def two_machines_with_queues_and_vhost(t):
    two_machines_talk(t, ",queues=2,vhost=on", multi_queue=True, cpus=2)


@test
def host_and_guest_by_tap(t):
    with host.Bridge("vmmbr0", ["vmmtap0"], address="10.9.0.254/24"):
        machine = t.small("--net", "tap=vmmtap0")
        configure(machine, "10.9.0.1")
        host.run("ping", "-c", "3", "-i", "0.2", "-W", "5", "10.9.0.1")
        made_up = machine.run("cat /sys/class/net/eth0/address")
        t.equal(machine.ctl("status")["nets"][0]["mac"], made_up, "the address in the status")
        t.true(int(made_up[:2], 16) & 3 == 2, f"{made_up} is a local address of one card")
        # The card works on after the guest's driver was unbound and bound, and after a reboot.
        machine.run("cd /sys/bus/virtio/drivers/virtio_net; d=$(basename $(readlink /sys/class/net/eth0/device)); echo $d >unbind; echo $d >bind; sleep 0.2")
        configure(machine, "10.9.0.1")
        host.run("ping", "-c", "2", "-i", "0.2", "-W", "5", "10.9.0.1")
        machine.console.send("reboot -f\n")
        machine.console.expect("init up")
        t.equal(machine.run("cat /sys/class/net/eth0/address"), made_up, "the address after a reboot")
        configure(machine, "10.9.0.1")
        host.run("ping", "-c", "2", "-i", "0.2", "-W", "5", "10.9.0.1")
        machine.power_off()
    # The tap was the administrator's, and stayed until he removed it.


@test
def queues_of_a_tap(t):
    with host.Bridge("vmmbr0", ["vmmtap0"], multi_queue=True):
        machine = t.small("--net", "tap=vmmtap0,queues=4,mtu=9000", cpus=4)
        t.equal(machine.run("ls -d /sys/class/net/eth0/queues/rx-* | wc -l"), "4", "receive queues")
        t.equal(machine.run("cat /sys/class/net/eth0/mtu"), "9000")
        machine.power_off()


@test
def several_cards(t):
    with host.Bridge("vmmbr0", ["vmmtap0", "vmmtap1"]):
        machine = t.small("--net", "tap=vmmtap0,mac=52:54:00:00:00:aa", "--net", "tap=vmmtap1,mac=52:54:00:00:00:bb")
        t.equal(machine.run("cat /sys/class/net/eth0/address /sys/class/net/eth1/address").split(),
                ["52:54:00:00:00:aa", "52:54:00:00:00:bb"])
        machine.power_off()


class Names:
    """A name server on the host's loopback, by IPv6 alone, that knows one name: by UDP one address, by TCP another one."""

    def __init__(self, name, by_udp, by_tcp):
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        self.query = b"\x12\x34\1\0\0\1" + bytes(6) + labels + bytes([0, 0, 1, 0, 1])
        self._by_udp, self._by_tcp = socket.inet_aton(by_udp), socket.inet_aton(by_tcp)
        self._udp, self._tcp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6)
        self._udp.bind(("::1", 53))
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind(("::1", 53))
        self._tcp.listen()

    def __enter__(self):
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *unused):
        self._udp.close()
        self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()

    def _answer(self, query, address):
        known = query[12:] == self.query[12:]
        answer = query[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1" + (b"\0\1" if known else b"\0\0") + bytes(4) + query[12:]
        return answer + (b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address if known else b"")

    def _serve_udp(self):
        while True:
            try:
                query, peer = self._udp.recvfrom(512)
                self._udp.sendto(self._answer(query, self._by_udp), peer)
            except OSError:
                return

    def _serve_tcp(self):
        while True:
            try:
                with self._tcp.accept()[0] as one:
                    one.settimeout(60)
                    size = int.from_bytes(one.recv(2, socket.MSG_WAITALL), "big")
                    reply = self._answer(one.recv(size, socket.MSG_WAITALL), self._by_tcp)
                    one.sendall(len(reply).to_bytes(2, "big") + reply)
            except TimeoutError:
                continue
            except OSError:
                return


@test
def names_by_the_users_network(t):
    """The host has an IPv6 name server alone; the guest asks by UDP over IPv4, and by TCP over IPv6."""
    resolv = t.file("resolv.conf", b"nameserver ::1\n")
    try:
        names = Names("guest.test", "10.1.2.3", "10.4.5.6")
    except OSError as error:
        raise Skip(f"port 53 of the loopback is not to be had here: {error}") from None
    with names:
        # The file is another one for this vmm and its network process alone.
        machine = t.small("--net", "user,ipv6=on", prefix=["unshare", "-m", "sh", "-euc",
                          f'mount --make-rprivate /; mount --bind {resolv} "$(readlink -f /etc/resolv.conf)"; exec "$@"', "sh"])
        machine.run("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0; "
                    "ip route add default via 10.0.2.2; ip address add fec0::15/64 dev eth0")
        t.contains(machine.run("nslookup -type=a guest.test 10.0.2.3", timeout=60), "10.1.2.3")
        asked = "".join(f"\\x{byte:02x}" for byte in len(names.query).to_bytes(2, "big") + names.query)
        answered = machine.run(f"printf '{asked}' | nc fec0::3 53 | hexdump -v -e '1/1 \"%02x\"'", timeout=60)
        t.contains(answered, socket.inet_aton("10.4.5.6").hex())
        machine.power_off()


@test
def dhcp_of_the_users_network(t):
    machine = t.small("--net", "user,network=10.77.0.0/16,hostname=named,mac=52:54:00:00:00:77")
    machine.run("ip link set eth0 up; printf '#!/bin/sh\\nset\\n' >/tmp/script; chmod +x /tmp/script")
    lease = machine.run("udhcpc -i eth0 -n -q -f -s /tmp/script -O hostname 2>&1")
    for part in ("ip='10.77.0.15'", "router='10.77.0.2'", "dns='10.77.0.3'", "hostname='named'"):
        t.contains(lease, part)
    machine.power_off()


# ---- ports of the host

REQUEST = b"GET /x HTTP/1.0\r\n\r\n"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def serve_a_page(machine):
    machine.run("ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2; "
                "mkdir -p /tmp/www; echo content >/tmp/www/x; httpd -p 80 -h /tmp/www")


def half_a_request(t, port):
    """A connection, on which something was asked for and not to the end."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60 * t.patience)
    connection.sendall(REQUEST[:-2])
    return connection


def answer(connection):
    try:
        connection.sendall(REQUEST[-2:])
        whole = b""
        while piece := connection.recv(4096):
            whole += piece
        return whole
    except OSError as error:
        return str(error).encode()
    finally:
        connection.close()


def is_closed(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@test
def ports_come_and_go_while_connections_last(t):
    first, second, third = free_ports(3)
    machine = t.small("--net", f"user,restrict=on,hostfwd=tcp::{first}-:80", "--net", "unplugged")
    serve_a_page(machine)
    before = half_a_request(t, first)
    machine.ctl("publish", "net0", f"tcp::{second}-:80", f"tcp::{third}-:80")
    t.equal(machine.ctl("status")["nets"][0]["ports"],
            [f"tcp:127.0.0.1:{port}-:80" for port in (first, second, third)], "what the status says")
    t.equal(machine.ctl("status")["nets"][1]["ports"], [], "of the other card")
    later = half_a_request(t, second)
    machine.ctl("unpublish", "net0", f"tcp::{first}", f"tcp::{second}")
    t.true(is_closed(first) and is_closed(second), "they are closed at once")
    for connection in (before, later, half_a_request(t, third)):
        t.contains(answer(connection).decode(), "content")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # the connection of before is not forgotten yet
        taken.bind(("127.0.0.1", first))
        taken.listen()
        for words, sentence in (
                (["publish", "net0", f"tcp::{second}-:80", f"tcp::{first}-:80"], f"cannot publish tcp port {first} of 127.0.0.1: it is taken"),
                (["publish", "net0", f"tcp::{third}-:81"], "is published already"),
                (["publish", "net0", "tcp::80"], "is not a forwarded port"),
                (["publish", "net1", "tcp::1-:80"], "nothing is attached to net1"),
                (["publish", "net2", "tcp::1-:80"], "no component 'net2': the machine has net0, net1"),
                (["unpublish", "net0", f"tcp::{second}"], f"tcp:127.0.0.1:{second} is not published")):
            t.contains(machine.ctl(*words, code=1), sentence)
        t.true(is_closed(second), "all of a request are published, or none is")
    machine.power_off()


@test
def ports_last_over_a_reset_and_a_death_and_are_noted(t):
    first, second = free_ports(2)
    machine = t.small("--net", f"user,restrict=on,hostfwd=tcp::{first}-:80")
    machine.ctl("publish", "net0", f"tcp::{second}-:80")
    machine.ctl("unpublish", "net0", f"tcp::{first}")
    machine.console.send("reboot -f\n")
    machine.console.expect("vmm-guest: init up")
    serve_a_page(machine)
    t.contains(answer(half_a_request(t, second)).decode(), "content")
    t.true(is_closed(first), "what was closed stays so")
    # Its guest is unharmed, and so is the port.
    network = [pid for pid, name in machine.children().items() if name == "vmm-net"]
    os.kill(network[0], signal.SIGKILL)
    t.eventually(lambda: network[0] not in machine.children() and not is_closed(second), 30, "another network process")
    t.contains(answer(half_a_request(t, second)).decode(), "content")
    machine.ctl("snapshot", t.path("saved"))
    with open(t.path("saved/manifest.json")) as manifest:
        t.equal(json.load(manifest)["attachments"]["net"][0]["hostfwd"], [f"tcp:127.0.0.1:{second}-:80"], "what the snapshot notes")
    copy = t.restore(t.path("saved"))
    t.contains(copy.errors(), "published ports and host loopback of net0 (--net)")
    t.equal(copy.ctl("status")["nets"][0]["ports"], [], "a copy has none of itself")
    for ended in (copy, machine):
        ended.power_off()
    t.true(not host.machine_processes(), "nothing is left")
