"""Balloon, persistent memory and vsock."""
import hashlib
import os
import shutil
import socket
import subprocess
import threading

from harness import Skip, host, test
from harness.architecture import HERE
from harness.vsock import connect, dial, read_all

MIB = 1 << 20
# It is made beside the loading of its driver.
WAIT_FOR_PMEM = "until [ -b /dev/pmem0 ]; do sleep 0.1; done"


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@test
def pmem_is_a_file_of_the_host(t):
    """With DAX nothing of it is copied; it is read-only; a copy of the machine goes on with the same file, and with no other."""
    if not shutil.which("mkfs.erofs"):
        raise Skip("there is no mkfs.erofs")
    content = os.urandom(32 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    os.mkdir(t.path("root"))
    with open(t.path("root/f"), "wb") as file:
        file.write(content)
    image = t.path("image.erofs")
    subprocess.run(["mkfs.erofs", "--quiet", image, t.path("root")], check=True, stdout=subprocess.DEVNULL)
    before = digest_of(image)
    machine = t.small("--pmem", image)
    machine.run(f"{WAIT_FOR_PMEM}; modprobe erofs; mount -t erofs -o ro,dax=always /dev/pmem0 /mnt")
    resident = machine.metrics()["memory"]["guest_resident"]
    t.equal(machine.run("sha256sum </mnt/f", timeout=120).split()[0], digest)
    t.between(machine.metrics()["memory"]["guest_resident"] - resident, -MIB, 8 * MIB, "the guest's memory for 32 MiB")
    # A driver that writes all the same. (On arm64 KVM ends a guest that does so by other than one register.)
    if HERE == "x86_64":
        machine.run("dd if=/dev/urandom of=/dev/pmem0 bs=4096 seek=100 count=1 conv=fsync 2>/dev/null; true", timeout=60)
        t.true(machine.metrics("pmem0")["requests"] > 0, "flushes are answered")
    t.equal(digest_of(image), before, "the file")
    machine.run("sync; echo 3 >/proc/sys/vm/drop_caches")
    machine.ctl("snapshot", t.path("saved"), "--stop")
    machine.ends(0)
    t.contains(t.machine("--restore", t.path("saved")).ends(1), "--pmem")
    copy = t.restore(t.path("saved"), "--pmem", image)
    t.equal(copy.run("sha256sum </mnt/f", timeout=120).split()[0], digest)
    copy.power_off()
    with open(image, "ab") as file:
        file.write(b"x")
    t.contains(t.machine("--restore", t.path("saved"), "--pmem", image).ends(1), "pmem0")


@test
def pmem_slot_is_filled_at_the_restore(t):
    machine = t.small("--pmem", "size=4M")
    t.equal(machine.run(f"{WAIT_FOR_PMEM}; blockdev --getsize64 /dev/pmem0"), str(4 * MIB))
    t.equal(machine.run("head -c 4 /dev/pmem0 | od -An -tx1").split(), ["00"] * 4)
    machine.ctl("snapshot", t.path("saved"), "--stop")
    machine.ends(0)
    copy = t.restore(t.path("saved"), "--pmem", t.file("f", b"filled"))
    t.equal(copy.run("head -c 6 /dev/pmem0"), "filled")
    copy.power_off()


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
