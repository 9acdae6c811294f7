"""The guest agent as the first process of a machine: what its own tests (guest-images/agent/agent_test.cpp) do to it natively, and
what takes a machine, through vsock."""
import os
import shutil
import subprocess

from harness import test
from harness.programs import cases

MIB = 1 << 20
APPLETS = ("sh cat head id stty tty sleep grep kill ls ps wc tail touch hostname stat true mount dd date ip").split()


def container_root(t):
    """Of busybox, as the native tests make it; the disk and its file system."""
    root = t.path("root")
    for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "root"):
        os.makedirs(os.path.join(root, folder))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin/busybox"))
    for name in APPLETS:
        os.symlink("busybox", os.path.join(root, "bin", name))
    for name, text in {"passwd": "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/sh\n",
                       "group": "root:x:0:\nwww:x:34:\nmedia:x:44:web\n", "plain": "not a program\n"}.items():
        with open(os.path.join(root, "etc", name), "w") as file:
            file.write(text)
    if shutil.which("mkfs.erofs"):
        image = t.path("root.erofs")
        subprocess.run(["mkfs.erofs", "--quiet", image, root], check=True, stdout=subprocess.DEVNULL)
        with open(image, "r+b") as file:
            file.truncate(-(-os.path.getsize(image) // MIB) * MIB)
        return image, "erofs"
    image = t.file("root.ext4", size=16 * MIB)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", root, image], check=True)
    return image, "ext4"


@test(only="x86_64")
def runs_a_container(t):
    image, kind = container_root(t)
    writable = t.file("writable.img", size=64 * MIB)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", writable], check=True)
    path = t.path("vsock")
    machine = t.machine("--kernel", t.images.kernel, "--initrd", t.images.agent, "--mem", "256M", "--vsock", path, "--rng", "--balloon",
                        "--net", "user,restrict=on", "--disk", f"{image},ro,format=raw", "--disk", f"{writable},format=raw")
    machine.console.expect("vmm-agent: ready")
    program, environment = "guest-images/agent/agent_test", {"VMM_AGENT_VSOCK": path, "VMM_AGENT_IMAGE_TYPE": kind}
    cases(t, program, "-Machine.Ends", ["Agent.RunsAProgram", "Agent.AllOutputIsReadBeforeTheEndIsTold", "Agent.ATerminal",
                                        "Agent.AnotherProcessBesideTheFirst", "Agent.Privileges", "Machine.TellsOfTooLittleMemory",
                                        "Machine.Usage", "Machine.Identity"], **environment)
    cases(t, program, "Machine.Ends", ["Machine.Ends"], **environment)
    machine.ends(0)
    # What the container wrote was on the disk when the machine ended.
    found = subprocess.run(["/sbin/debugfs", "-R", "stat /upper/kept", writable], text=True, capture_output=True).stdout
    t.contains(found, "Type: regular")
