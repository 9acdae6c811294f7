"""Where the guests' images are. Those who start the tests make them first and say so in the environment,
as a host that is emulated keeps nothing that is made on it."""
import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

# Variable, recipe that makes it and prints its path.
RECIPES = {
    "VMM_TEST_VMLINUX": ["kernel/build", "--print", "vmlinux"],
    "VMM_TEST_BZIMAGE": ["kernel/build", "--print", "bzImage"],
    "VMM_TEST_INITRAMFS": ["initramfs/build"],
    "VMM_TEST_ROOT": ["rootfs/build"],
    "VMM_TEST_STOCK61": ["kernel/stock", "--print", "vmlinuz", "CLOUD6.1"],
    "VMM_TEST_STOCK61_INITRD": ["kernel/stock", "--print", "initrd.img", "CLOUD6.1"],
    "VMM_TEST_STOCK612": ["kernel/stock", "--print", "vmlinuz", "CLOUD6.12"],
    "VMM_TEST_STOCK612_INITRD": ["kernel/stock", "--print", "initrd.img", "CLOUD6.12"],
}


class Images:
    def __init__(self, work):
        """work: a folder in memory, for copies: the guests' images may be far away."""
        self._work = work
        self._environment = dict(os.environ)    # with the cache of the user, where recipes keep what they made
        self._near = {}
        self.build = os.environ.get("VMM_TEST_BUILD", os.path.join(ROOT, "build"))
        self.vmm = self._copy_of_program()

    def _copy_of_program(self):
        near = os.path.join(self._work, "bin")
        os.makedirs(near)
        for program in ("src/cli/vmm", "src/user_net/vmm-net"):
            shutil.copy2(os.path.join(self.build, program), near)
        return os.path.join(near, "vmm")

    def path(self, variable):
        """The image itself; not to be written to."""
        if variable not in os.environ:
            recipe = [os.path.join(ROOT, "guest-images", RECIPES[variable][0]), *RECIPES[variable][1:]]
            result = subprocess.run(recipe, text=True, stdout=subprocess.PIPE, check=True,
                                    env=self._environment)
            os.environ[variable] = result.stdout.split()[-1]
        return os.environ[variable]

    def near(self, variable):
        """A copy in memory, made once."""
        if variable not in self._near:
            target = os.path.join(self._work, variable.lower())
            subprocess.run(["cp", "--sparse=always", self.path(variable), target], check=True)
            self._near[variable] = target
        return self._near[variable]

    vmlinux = property(lambda self: self.near("VMM_TEST_VMLINUX"))
    bzimage = property(lambda self: self.near("VMM_TEST_BZIMAGE"))
    initramfs = property(lambda self: self.near("VMM_TEST_INITRAMFS"))
    root = property(lambda self: self.near("VMM_TEST_ROOT"))
