"""Where the guests' images are. Those who start the tests make them first and say so in the environment,
as a host that is emulated keeps nothing that is made on it."""
import os
import shutil
import subprocess

from .architecture import HERE

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


# Images of containers beside busybox, which behave as their official namesakes.
OFFICIAL = ["hello-world", "python", "nginx", "redis", "postgres"]


def variable_of(name):
    return "VMM_TEST_" + name.upper().replace("-", "_")


# Variable, recipe that makes the image and prints its path; first what takes the network.
EVERYWHERE = {
    "VMM_TEST_ROOT": ["rootfs/build"],
    "VMM_TEST_INITRAMFS": ["initramfs/build", "--kernel", "CLOUD6.12"],
}
RECIPES = {
    "x86_64": {
        **EVERYWHERE,
        "VMM_TEST_KERNEL": ["kernel/stock", "--print", "vmlinux", "CLOUD6.12"],
        "VMM_TEST_BZIMAGE": ["kernel/stock", "--print", "vmlinuz", "CLOUD6.12"],
        "VMM_TEST_BUSYBOX": ["container/build"],
        **{variable_of(name): ["container/build", name] for name in OFFICIAL},
        "VMM_TEST_STOCK61": ["kernel/stock", "--print", "vmlinuz", "CLOUD6.1"],
        "VMM_TEST_STOCK61_INITRD": ["kernel/stock", "--print", "initrd.img", "CLOUD6.1"],
        "VMM_TEST_CLEAN_ROOT": ["clean-root/build"],
    },
    "aarch64": {
        **EVERYWHERE,
        "VMM_TEST_KERNEL": ["kernel/stock", "--print", "vmlinuz", "CLOUD6.12"],
        "VMM_TEST_GENERIC612": ["kernel/stock", "--print", "vmlinuz", "GENERIC6.12"],
        "VMM_TEST_GENERIC612_INITRD": ["initramfs/build", "--kernel", "GENERIC6.12"],
    },
}


def recipe(architecture, variable):
    """The command that makes an image."""
    program, *words = RECIPES[architecture][variable]
    return [os.path.join(ROOT, "guest-images", program), "--arch", architecture, *words]


def package_command(build, folder):
    return [os.path.join(ROOT, "tools/package"), "--build", build, "--out", folder]


def agent_recipe(build):
    """The same for the initramfs of the guest agent of a build directory."""
    return [os.path.join(ROOT, "guest-images/initramfs/build"), "--kernel", "CLOUD6.12", "--agent",
            os.path.join(build, "guest-images/agent/vmm-agent")]


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
        for program in ("src/cli/vmm", "src/user_net/vmm-net", "src/engine/cli/vmm-engine", "src/engine/cli/vmm-registry"):
            path = os.path.join(self.build, program)
            if os.path.exists(path) or "engine" not in program:     # a cross build has no engine
                shutil.copy2(path, near)
        return os.path.join(near, "vmm")

    def path(self, variable):
        """The image itself; not to be written to."""
        if variable not in os.environ:
            command = agent_recipe(self.build) if variable == "VMM_TEST_AGENT" else recipe(HERE, variable)
            result = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True, env=self._environment)
            os.environ[variable] = result.stdout.split()[-1]
        return os.environ[variable]

    def package(self):
        """A folder with the Debian package and the archive of the program."""
        if "VMM_TEST_PACKAGE" not in os.environ:
            folder = os.path.join(self._work, "package")
            subprocess.run(package_command(self.build, folder), check=True, stdout=subprocess.DEVNULL, env=self._environment)
            os.environ["VMM_TEST_PACKAGE"] = folder
        return os.environ["VMM_TEST_PACKAGE"]

    def official(self, name):
        """The archive of an image of OFFICIAL; far away, as it is read once."""
        return self.path(variable_of(name))

    def shared(self, name):
        """A folder for what several tests use, made once."""
        folder = os.path.join(self._work, "shared", name)
        os.makedirs(folder, exist_ok=True)
        return folder

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
    busybox = property(lambda self: self.near("VMM_TEST_BUSYBOX"))
    agent = property(lambda self: self.near("VMM_TEST_AGENT"))
    root = property(lambda self: self.near("VMM_TEST_ROOT"))
