"""The build directories, and the images of the guests."""
import os
import shutil
import subprocess
import sys

import jobs

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/vm"))
from harness.images import RECIPES, agent_recipe, package_command, recipe      # noqa: E402

BUILD_SECONDS = 3600


class BuildFailed(Exception):
    pass


class Build:
    """A build directory: configured when it is not, built once a run."""

    def __init__(self, name, options, environment=None, targets=()):
        self.path = os.path.join(ROOT, name)
        self._options = options
        # ccache knows an object again in another directory and clone: the sources that meson joins name their parts absolutely.
        self._environment = {**os.environ, "CCACHE_BASEDIR": ROOT, **(environment or {})}
        self._built, self._targets = False, targets

    def configure(self):
        command = ["meson", "setup", self.path, ROOT, *self._options]
        if os.path.exists(os.path.join(self.path, "build.ninja")):
            return
        if os.path.exists(self.path):       # a configuration that was cut off
            command.append("--wipe")
        self._run(command, "configure")

    def build(self, say=print, seconds=BUILD_SECONDS):
        if self._built:
            return
        self.configure()
        say(f"building {os.path.basename(self.path)}")
        self._run(["ninja", "-C", self.path, *self._targets], "build", seconds)
        self._built = True

    def _run(self, command, what, seconds=BUILD_SECONDS):
        code, output, _ = jobs.run(command, seconds, env=self._environment, cwd=ROOT)
        if code != 0:
            lines = output.splitlines()
            first = next((i for i, line in enumerate(lines) if "FAILED:" in line or "error:" in line or "ERROR:" in line), 0)
            raise BuildFailed("\n".join(lines[first:first + 40] or lines[-40:]) + f"\ncannot {what} {self.path}")

    def tests(self):
        """(name, command, environment, folder) of each unit test program."""
        import json
        out = subprocess.run(["meson", "introspect", "--tests", self.path], text=True, capture_output=True, check=True).stdout
        return [(test["name"], test["cmd"], test["env"], test.get("workdir") or self.path) for test in json.loads(out)
                if "unit" in "".join(test["suite"])]

    def fuzzers(self):
        folder = os.path.join(self.path, "tests/fuzz")
        return sorted(name[:-len("_fuzz")] for name in os.listdir(folder) if name.endswith("_fuzz"))


class Given(Build):
    """A directory that the caller has built."""

    def __init__(self, path):
        super().__init__(path, [])

    def build(self, say=print, seconds=BUILD_SECONDS):
        if not os.path.exists(os.path.join(self.path, "src/cli/vmm")):
            raise BuildFailed(f"VMM_TEST_BUILD is {self.path}, and no vmm was built there")


def plain():
    if given := os.environ.get("VMM_TEST_BUILD"):
        return Given(os.path.abspath(given))
    return Build("build-test", [])


def sanitized():
    # The libraries are instrumented for the fuzzers too, so that one build serves both.
    return Build("build-sanitize",
                 ["-Doptimization=1", "-Dunity_size=3", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dfuzzers=true",
                  "-Dcpp_args=-fsanitize=fuzzer-no-link", "-Dstatic_program=false"],
                 {"CC": _ccache("clang-19"), "CXX": _ccache("clang++-19"), "CXX_LD": "lld-19"})


def race():
    return Build("build-race", ["--buildtype=debugoptimized", "-Db_sanitize=thread", "-Db_lundef=false", "-Dstatic_program=false"],
                 {"CC": _ccache("clang-19"), "CXX": _ccache("clang++-19"), "CXX_LD": "lld-19"})


def _ccache(compiler):
    return f"ccache {compiler}" if shutil.which("ccache") else compiler


def cross(architecture):
    """The program alone, for another architecture."""
    return Build(f"build-{architecture}", ["--cross-file", os.path.join(ROOT, f"tools/{architecture}.ini")],
                 targets=["src/cli/vmm", "src/user_net/vmm-net"])


def make_agent(build, say=print):
    """The initramfs of the guest agent that was built, by its variable."""
    return _make({"VMM_TEST_AGENT": agent_recipe(build.path)}, say)


def make_images(architecture, say=print):
    """Makes the images of an architecture's guests; their paths, by variable."""
    return _make({variable: recipe(architecture, variable) for variable in RECIPES[architecture]}, say)


def _make(recipes, say):
    paths = {}
    for variable, command in recipes.items():
        process = jobs.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate()
        if process.returncode:
            raise BuildFailed(f"{errors}\ncannot make the image of {variable}: {' '.join(command)}")
        for line in errors.splitlines():
            say(f"  {line}")
        paths[variable] = output.split()[-1]
    return paths


def make_package(build, folder):
    """The Debian package and the archive of a build directory."""
    code, output, _ = jobs.run(package_command(build.path, folder), BUILD_SECONDS, cwd=ROOT)
    if code != 0:
        raise BuildFailed(f"{output}\ncannot make the package of {build.path}")
