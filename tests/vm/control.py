"""The control socket and `vmm ctl`."""
import os
import stat

from harness import test


@test
def socket_is_ours_alone(t):
    machine = t.small()
    t.equal(stat.S_IMODE(os.stat(machine.control).st_mode), 0o600, "the socket's mode")
    machine.power_off()
    t.true(not os.path.exists(machine.control), "the socket is gone with the machine")


@test
def status(t):
    disk = t.file("disk.img", size=1 << 20)
    machine = t.small("--name", "one", "--disk", f"{disk},ro", cpus=2, mem="128M")
    status = machine.ctl("status")
    for key, value in {"state": "running", "name": "one", "pid": machine.pid, "cpus": 2, "memory": 128 << 20,
                       "reboots": 0, "disks": [{"path": disk, "read_only": True}]}.items():
        t.equal(status[key], value, key)
    t.true(status["uptime_ms"] > 0, "uptime")
    machine.power_off()


@test
def pause_and_resume(t):
    machine = t.small(cpus=2)
    machine.console.send("i=0; while :; do i=$((i+1)); echo tick $i; done &\n")
    machine.console.expect("tick 5")
    machine.ctl("pause")
    machine.ctl("pause")        # once more is no mistake
    t.equal(machine.ctl("status")["state"], "paused")
    # The output that was on its way comes; then there is silence.
    t.eventually(lambda: machine.console.silent(0.3), 10, "silence of a paused guest")
    before = len(machine.console.text)
    exits = machine.metrics()["vcpus"]
    t.true(machine.console.silent(1), "a paused guest prints nothing")
    t.equal(machine.metrics()["vcpus"], exits, "exits of a paused guest")
    machine.ctl("resume")
    machine.console.expect("tick")
    t.eventually(lambda: len(machine.console.text) > before + 100, 10, "output of a guest that goes on")
    t.equal(machine.ctl("status")["state"], "running")
    machine.ctl("stop")
    machine.ends(5)


@test
def stop_ends_at_once(t):
    machine = t.small()
    machine.ctl("stop")
    t.contains(machine.ends(5, timeout=15), "control socket")


@test
def stop_ends_a_paused_machine(t):
    machine = t.small()
    machine.ctl("pause")
    machine.ctl("stop")
    machine.ends(5, timeout=15)


@test
def metrics(t):
    machine = t.small("--disk", t.file("disk.img", size=8 << 20), "--net", "user", "--balloon", mem="256M")
    before = machine.metrics("blk0")
    machine.run("dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null")
    after = machine.metrics()
    block = after["devices"]["blk0"]
    t.between(block["bytes_written"] - before["bytes_written"], 4 << 20, 5 << 20, "bytes written")
    t.true(block["flushes"] > before["flushes"], "a flush is counted")
    # x86-64's console is at ports, aarch64 has none.
    t.true(after["vcpus"][0]["io"] + after["vcpus"][0]["mmio"] > 0, "exits are counted")
    memory = after["memory"]
    t.equal(memory["guest"], 256 << 20)
    t.true(0 < memory["guest_resident"] <= memory["resident"], f"memory makes sense: {memory}")
    machine.power_off()


@test
def refuses_what_it_does_not_know(t):
    machine = t.small()
    t.contains(machine.ctl("pauze", code=1), "did you mean 'pause'")
    t.contains(machine.ctl("balloon", "64M", code=1), "without --balloon")
    t.contains(machine.ctl("balloon", "much", code=1), "without --balloon")
    t.contains(machine.ctl("balloon", code=1), "takes a size")
    machine.run("true")
    machine.power_off()
