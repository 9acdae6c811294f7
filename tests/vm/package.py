"""What tools/package makes: installed on a clean Debian, it runs guests."""
import base64
import glob
import os
import re
import shutil
import subprocess

from harness import test

REACHED = "ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0; ping -c 1 -W 20 10.0.2.2 && echo the gateway answers"


class CleanRoot:
    """A minimal Debian in a folder of the test, and words that run a program in it; no mount outlives one."""

    def __init__(self, t):
        self._t, self.path = t, t.path("root")
        os.mkdir(self.path)
        subprocess.run(["tar", "-xf", t.images.path("VMM_TEST_CLEAN_ROOT"), "-C", self.path, "--exclude=./dev/*"], check=True)
        script = f"mount --make-rprivate /; mount --rbind /dev {self.path}/dev; mount -t proc proc {self.path}/proc"
        self.prefix = ["unshare", "-m", "sh", "-euc", f'{script}; exec chroot {self.path} "$@"', "sh"]

    def install(self):
        self.take(made(self._t, "vmm_*.deb"), "vmm.deb")
        self.run("dpkg", "--install", "/vmm.deb")

    def take(self, path, name):
        shutil.copy(path, os.path.join(self.path, name))

    def run(self, *command):
        result = subprocess.run([*self.prefix, *command], text=True, capture_output=True, stdin=subprocess.DEVNULL,
                                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"})
        self._t.equal(result.returncode, 0, f"{' '.join(command)} ({result.stdout}{result.stderr})")
        return result.stdout


def made(t, pattern):
    (path,) = glob.glob(os.path.join(t.images.package(), pattern))
    return path


@test(only="x86_64")
def installed_by_dpkg(t):
    """Version, manual and completion are there; nothing is left of it afterwards."""
    root = CleanRoot(t)
    root.install()
    version = root.run("vmm", "--version")
    t.equal(version, subprocess.run([t.images.vmm, "--version"], text=True, capture_output=True).stdout, "the version")
    t.equal(root.run("dpkg-query", "-W", "-f", "vmm ${Version}\\n", "vmm"), version, "the package's version")
    t.equal(root.run("dpkg", "--verify", "vmm"), "", "files that are not as in the package")
    page = re.sub(".\b", "", root.run("man", "-P", "cat", "vmm"))
    t.true("vmm --kernel PATH" in page, f"the manual page: {page[:500]}")
    complete = 'source /usr/share/bash-completion/bash_completion; _completion_loader vmm; COMP_WORDS=(vmm sn) COMP_CWORD=1; _vmm; echo "$COMPREPLY"'
    t.equal(root.run("bash", "-c", complete), "snapshot\n", "completion of `vmm sn`, found by the shell itself")
    root.run("dpkg", "--purge", "vmm")
    left = [path for path in ("usr/bin/vmm", "usr/libexec/vmm", "usr/share/doc/vmm") if os.path.exists(os.path.join(root.path, path))]
    t.equal(left, [], "what a purge leaves")


@test(only="x86_64")
def installed_program_runs_a_guest(t):
    """Its network is the installed vmm-net."""
    root = CleanRoot(t)
    root.install()
    root.take(t.images.kernel, "kernel")
    root.take(t.images.initramfs, "initramfs")
    words = "vmm.run64=" + base64.b64encode(REACHED.encode()).decode()
    machine = t.machine("--kernel", "/kernel", "--initrd", "/initramfs", "--append", words, "--net", "user", program="/usr/bin/vmm",
                        prefix=root.prefix, control=False)
    machine.ends(0, timeout=120)
    t.contains(machine.console.text, "the gateway answers")


@test(only="x86_64")
def archive_brings_its_libraries(t):
    root = CleanRoot(t)
    root.take(made(t, "vmm-*.tar.gz"), "vmm.tar.gz")
    root.run("tar", "-xf", "/vmm.tar.gz", "-C", "/opt")
    (folder,) = glob.glob(os.path.join(root.path, "opt/vmm-*"))
    inside = folder[len(root.path):]
    t.contains(root.run(f"{inside}/bin/vmm", "--version"), "vmm ")
    # What the loader finds, by its own word.
    libraries = root.run("env", "LD_TRACE_LOADED_OBJECTS=1", f"{inside}/libexec/vmm/vmm-net")
    for name, path in re.findall(r"(\S+) => (\S+)", libraries):
        if not re.match(r"lib(c|m|resolv)\.so", name):
            t.true(os.path.normpath(path).startswith(f"{inside}/libexec/vmm/lib/"), f"{name} is taken from {path}")
    t.contains(libraries, "libslirp.so.0")
