"""Balloon and vsock."""
import os
import socket
import subprocess
import threading

from harness import host, test
from harness.vsock import connect, dial, read_all

MIB = 1 << 20


def guest_resident(machine):
    return machine.metrics()["memory"]["guest_resident"]


@test
def balloon_inflates_and_deflates(t):
    machine = t.small("--balloon", mem="512M")
    free = lambda: int(machine.run("sed -n 's/MemFree: *//p' /proc/meminfo").split()[0]) << 10
    before = free()
    machine.ctl("balloon", "256M")
    t.eventually(lambda: machine.metrics("balloon")["actual_bytes"] == 256 * MIB, 60, "256 MiB in the balloon")
    t.between(before - free(), 240 * MIB, 272 * MIB, "memory that the guest has given")
    machine.ctl("balloon", "0")
    t.eventually(lambda: machine.metrics("balloon")["actual_bytes"] == 0, 60, "an empty balloon")
    t.eventually(lambda: before - free() < 16 * MIB, 30, "the guest's memory, all back")
    t.contains(machine.ctl("balloon", "2Q", code=1), "2Q")
    t.contains(machine.ctl("balloon", "4G", code=1), "4")
    machine.power_off()


@test
def balloon_gives_memory_to_the_host(t):
    machine = t.small("--balloon", mem="512M")
    machine.run("mount -o remount,size=400M /tmp; dd if=/dev/zero of=/tmp/f bs=1M count=300 2>/dev/null", timeout=120)
    full = host.resident(machine.pid)
    machine.run("rm /tmp/f")
    machine.ctl("balloon", "300M")
    t.eventually(lambda: full - host.resident(machine.pid) > 250 * MIB, 60, "250 MiB given back")
    machine.power_off()


@test
def guest_statistics(t):
    machine = t.small("--balloon", mem="256M")
    guest = machine.metrics("balloon")["guest"]
    t.between(guest["total_memory"], 200 * MIB, 256 * MIB, "total_memory")
    t.between(guest["free_memory"], 100 * MIB, 256 * MIB, "free_memory")
    machine.power_off()


@test
def freed_memory_goes_back(t):
    """Free page reporting: of 512 MiB that the guest frees, 90 % are back within 10 s."""
    machine = t.small("--balloon", mem="1G")
    machine.run("mount -o remount,size=600M /tmp")
    before = host.resident(machine.pid)
    machine.run("dd if=/dev/zero of=/tmp/f bs=1M count=512 2>/dev/null", timeout=120)
    full = host.resident(machine.pid)
    t.true(full - before > 480 * MIB, f"the guest's 512 MiB are resident: {(full - before) // MIB} MiB")
    machine.run("rm /tmp/f")
    t.eventually(lambda: full - host.resident(machine.pid) >= 512 * MIB * 9 // 10, 10, "90 % of 512 MiB given back")
    t.true(machine.metrics("balloon")["reported_bytes"] >= 460 * MIB, "what was reported is counted")
    # And it can be had again.
    machine.run("dd if=/dev/zero of=/tmp/f bs=1M count=512 2>/dev/null; rm /tmp/f", timeout=120)
    machine.power_off()


@test
def garbage_in_configuration_space(t):
    """A guest that writes nonsense to a device's registers loses the device; the machine goes on."""
    machine = t.small("--balloon", "--rng", "--net", "user", "--disk", t.file("disk.img", size=MIB))
    functions = machine.run("cd /sys/bus/pci/devices; for d in *; do [ -e $d/driver ] && echo $d; done; true").split()
    t.true(len(functions) >= 4, f"functions with a driver: {functions}")
    for function in functions:
        machine.run(f"d=/sys/bus/pci/devices/{function}; for i in 1 2 3 4; do head -c 256 /dev/urandom | dd of=$d/config bs=4 conv=notrunc 2>/dev/null; "
                    "head -c 252 /dev/urandom | dd of=$d/config bs=1 seek=4 conv=notrunc 2>/dev/null; done; true", timeout=120)
    t.equal(machine.ctl("status")["state"], "running")
    machine.metrics()
    t.equal(machine.run("echo still here"), "still here")
    # A reset gives it all back; an orderly reboot would wait for the devices.
    machine.console.send("echo b >/proc/sysrq-trigger\n")
    machine.console.expect("init up", timeout=120)
    t.equal(machine.run("head -c 4096 /dev/hwrng | wc -c"), "4096")
    machine.run("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null")
    machine.power_off()


# ---- vsock

@test
def vsock_both_ways(t):
    path = t.path("vsock")
    machine = t.shell("--vsock", f"{path},cid=42")
    t.equal(oct(os.stat(path).st_mode & 0o777), "0o600", "the socket's mode")
    # From the host to the guest: what is sent comes back.
    machine.run("socat VSOCK-LISTEN:1234,fork,reuseaddr EXEC:cat >/tmp/socat.log 2>&1 & true")
    payload = os.urandom(MIB)
    for _ in range(2):
        client = dial(t, path, 1234)
        sender = threading.Thread(target=lambda: (client.sendall(payload), client.shutdown(socket.SHUT_WR)))
        sender.start()
        echoed = read_all(client)
        sender.join()
        t.true(echoed == payload, f"{len(echoed)} bytes of {len(payload)} come back, or not the same")
        client.close()
    # Nobody listens there.
    client, answer = connect(path, 4321)
    t.equal(answer, "", "the answer for a port without listener")
    client.close()

    # From the guest to the host: port 77 is the socket PATH_77.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}_77")
    listener.listen()
    listener.settimeout(30)
    number = machine.console.start("echo from the guest | socat -t 5 - VSOCK-CONNECT:2:77")
    peer, _ = listener.accept()
    peer.settimeout(30)
    t.equal(read_all(peer), b"from the guest\n")
    peer.sendall(b"from the host\n")
    peer.close()
    t.equal(machine.console.finish(number, 30), ("from the host", 0))
    listener.close()
    os.unlink(f"{path}_77")
    output = machine.run("echo x | socat -t 2 - VSOCK-CONNECT:2:77 2>&1", code=1)
    t.contains(output, "reset", "a port of the host without listener")
    machine.power_off()


@test
def vsock_of_the_host_after_a_reboot(t):
    path = t.path("vsock")
    machine = t.shell("--vsock", path)
    for round in range(2):
        machine.run("socat VSOCK-LISTEN:1234,fork,reuseaddr EXEC:'echo hello' >/dev/null 2>&1 & true")
        client = dial(t, path, 1234)
        t.equal(read_all(client), b"hello\n")
        client.close()
        if round == 0:
            machine.console.send("sync; echo b >/proc/sysrq-trigger\n")
            machine.console.expect("# ")
            machine.console.serve()
            machine.run("mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /tmp")
    machine.power_off()
