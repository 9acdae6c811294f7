"""What a start costs before the guest's first instruction, on this machine itself: --dry-run does
all of it, and takes it back."""
import os
import re
import subprocess
import time

NATIVE = True
UNIT = "milliseconds, and calls"
LESS_IS_BETTER = True


def run(environment):
    command = [environment.vmm, "--dry-run", "--kernel", environment.images["kernel"],
               "--initrd", environment.images["initramfs"], "--mem", "256M"]
    before = os.times()
    start = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall = time.monotonic() - start
    after = os.times()
    cpu = (after.children_user - before.children_user
           + after.children_system - before.children_system)
    yield "wall, ms", "vmm", wall * 1000
    yield "CPU, ms", "vmm", cpu * 1000
    trace = subprocess.run(["strace", "-f", "-qq", "-c", "-U", "calls", *command],
                           stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                           check=False).stderr
    yield "system calls", "vmm", float(re.findall(r"^\s*(\d+)(?:\s+total)?$", trace, re.M)[-1])
