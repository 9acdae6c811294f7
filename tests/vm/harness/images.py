"""Where the guests' images are. Those who start the tests make them first and say so in the environment,
as a host that is emulated keeps nothing that is made on it."""
import os
import shutil
import subprocess

from .architecture import HERE

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def stock(variable, name):
    return {variable: ["kernel/stock", "--print", "vmlinuz", name],
            f"{variable}_INITRD": ["kernel/stock", "--print", "initrd.img", name]}


# Variable, recipe that makes the image and prints its path; first what takes the network.
EVERYWHERE = {
    "VMM_TEST_ROOT": ["rootfs/build"],
    **stock("VMM_TEST_STOCK612", "CLOUD6.12"),
    "VMM_TEST_INITRAMFS": ["initramfs/build"],
}
RECIPES = {
    "x86_64": {
        **EVERYWHERE,
        **stock("VMM_TEST_STOCK61", "CLOUD6.1"),
        "VMM_TEST_KERNEL": ["kernel/build", "--print", "vmlinux"],
        "VMM_TEST_BZIMAGE": ["kernel/build", "--print", "bzImage"],
    },
    "aarch64": {
        **EVERYWHERE,
        **stock("VMM_TEST_GENERIC612", "GENERIC6.12"),
        "VMM_TEST_KERNEL": ["kernel/build", "--print", "Image"],
    },
}


def recipe(architecture, variable):
    """The command that makes an image."""
    program, *words = RECIPES[architecture][variable]
    return [os.path.join(ROOT, "guest-images", program), "--arch", architecture, *words]


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
            result = subprocess.run(recipe(HERE, variable), text=True, stdout=subprocess.PIPE, check=True,
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

    kernel = property(lambda self: self.near("VMM_TEST_KERNEL"))
    bzimage = property(lambda self: self.near("VMM_TEST_BZIMAGE"))
    initramfs = property(lambda self: self.near("VMM_TEST_INITRAMFS"))
    root = property(lambda self: self.near("VMM_TEST_ROOT"))
