"""How a machine ends, and its exit codes; what it leaves behind when it is killed."""
import os
import signal
import subprocess
import time

from harness import host, test
from harness.architecture import HERE


@test
def power_off_is_0(t):
    t.small(run="true").ends(0)


@test
def panic_is_2(t):
    """Debian's kernels have a driver that tells of a panic on x86-64 alone: elsewhere it is a reset like any other."""
    machine = t.small() if HERE == "x86_64" else t.small("--no-reboot")
    machine.console.send("echo c >/proc/sysrq-trigger\n")
    if HERE == "x86_64":
        t.contains(machine.ends(2), "panic")
    else:
        machine.ends(0)
        t.contains(machine.console.text, "Kernel panic")


@test(only="x86_64")
def triple_fault_is_3(t):
    # The kernel's own way to reset by a triple fault.
    machine = t.small(append="reboot=t")
    machine.console.send("reboot -f\n")
    t.contains(machine.ends(3), "triple fault")


@test
def failed_start_is_1(t):
    machine = t.machine("--kernel", t.path("missing"))
    t.contains(machine.ends(1), t.path("missing"))


@test
def reboot_restarts_in_the_same_process(t):
    machine = t.small("--disk", t.file("disk.img", size=1 << 20))
    machine.run("echo kept >/dev/vda; sync")
    for reboots in (1, 2):
        machine.console.send("reboot -f\n")
        machine.console.expect("vmm-guest: init up")
        t.equal(machine.run("head -c 4 /dev/vda"), "kept", "the disk after a reboot")
        status = machine.ctl("status")
        t.equal((status["pid"], status["reboots"], status["state"]), (machine.pid, reboots, "running"))
    machine.power_off()


@test
def reboot_without_a_console(t):
    disk = t.file("disk.img", size=1 << 20)
    once = "if grep -q again /dev/vda; then echo done >/dev/vda; else echo again >/dev/vda; sync; reboot -f; fi"
    t.small("--serial", "none", "--disk", disk, run=once, console=False).ends(0)
    with open(disk, "rb") as file:
        t.equal(file.read(4), b"done", "what the second run wrote")


@test(only="x86_64")    # within seconds of its start: an emulated aarch64 guest needs longer to panic
def a_guest_that_only_resets_is_ended(t):
    """As a kernel does that panics before it has a driver to say so."""
    machine = t.machine("--kernel", t.images.kernel, "--mem", "256M", "--append", "panic=-1")    # it finds no root
    t.contains(machine.ends(2, timeout=120), "reset 5 times in a row")


@test
def no_reboot_ends(t):
    machine = t.small("--no-reboot")
    machine.console.send("reboot -f\n")
    machine.ends(0)
    t.equal(machine.console.text.count("init up"), 1, "starts of the guest")


@test
def second_signal_ends(t):
    for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)):
        machine = t.small()     # its init has no ear for the power button
        machine.signal(first)
        t.eventually(lambda: machine.ctl("status")["state"] == "stopping", 10, "the state 'stopping'")
        machine.run("true")     # it goes on until the second one
        machine.signal(second)
        t.contains(machine.ends(5), "second")


@test
def deadline_ends(t):
    machine = t.small()
    begin = time.monotonic()
    machine.signal()
    t.contains(machine.ends(5, timeout=90), "did not power off within 30 s")
    t.between(time.monotonic() - begin, 29, 60, "seconds until the end")


@test
def kill_leaves_nothing(t):
    """SIGKILL amid everything: the network process goes too, and the same words start it again."""
    with host.Bridge("vmmkill0", ["vmmkill1"]):
        options = ["--net", "user,hostfwd=tcp::18022-:22", "--net", "tap=vmmkill1", "--vsock", t.path("vsock"),
                   "--disk", t.file("disk.img", size=1 << 20), "--serial", "stdio"]
        control = t.path("control")
        for round in range(2):
            machine = t.small(*options, "--control", control, control=False)
            network = [pid for pid, name in machine.children().items() if name == "vmm-net"]
            t.equal(len(network), 1, "network processes")
            machine.signal(signal.SIGKILL)
            machine.ends(-signal.SIGKILL)
            t.eventually(lambda: not host.machine_processes(), 5, "the end of the network process")
        machine = t.small(*options, "--control", control, control=False)
        machine.power_off()
        t.true(not os.path.exists(control) and not os.path.exists(t.path("vsock")),
               "a good end removes the sockets that a killed machine left")


@test
def kill_amid_writes_leaves_a_file_system(t):
    """The host's page cache keeps what was written, in order: a journal is enough for fsck to accept."""
    image = t.file("data.img", size=192 << 20)
    host.run("mke2fs", "-q", "-t", "ext4", image)
    machine = t.shell("--disk", image)
    machine.run("mount /dev/vdb /mnt; mkdir /mnt/d")
    machine.console.send("cd /mnt/d; while :; do for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=f$i.new bs=64k count=8 "
                         "conv=fsync 2>/dev/null; mv f$i.new f$i; ln -f f$i l$i; done; rm -f l*; done &\n")
    t.eventually(lambda: machine.metrics("blk1")["flushes"] > 30, 120, "30 flushes")
    machine.signal(signal.SIGKILL)
    machine.ends(-signal.SIGKILL)
    replay = subprocess.run(["e2fsck", "-p", image], text=True, capture_output=True)
    t.true(replay.returncode in (0, 1), f"e2fsck -p ended with {replay.returncode}: {replay.stdout}{replay.stderr}")
    check = subprocess.run(["e2fsck", "-fn", image], text=True, capture_output=True)
    t.equal(check.returncode, 0, f"e2fsck -fn ({check.stdout}{check.stderr})")
    # And a guest mounts it.
    machine = t.shell("--disk", image)
    t.contains(machine.run("mount /dev/vdb /mnt && ls /mnt/d"), "f1")
    machine.power_off()
