"""tools/test, once what it needs is installed."""
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import builds           # noqa: E402
import jobs             # noqa: E402
import seeds            # noqa: E402
from builds import ROOT, BuildFailed    # noqa: E402
from report import Report               # noqa: E402

NATIVE = os.uname().machine
FOREIGN = [name for name in ("aarch64",) if name != NATIVE]     # machines that are emulated here for their tests
GROUPS = ["unit", "check", "sanitize", "fuzz", "cli", "vm"]
EXTRA = ["race", "aarch64"]       # only by name
# A program of unit tests, on a machine that is busy or has a slow disk; a case of it hangs when nothing is heard for the second.
UNIT_SECONDS, CASE_SECONDS = 3600, 300
SHARED_CASES = 100      # a program of more is run in parts, one a processor
FUZZ_SECONDS = int(os.environ.get("VMM_FUZZ_SECONDS", "12"))
SEED = int(os.environ.get("VMM_TEST_SEED", "1"))
GUEST_SECONDS = 5400    # beyond what VMM_TEST_MINUTES is in CI: what is not reached in time is skipped there, and no failure
# These have no guest and need no KVM: on an emulated host they took fifteen minutes.
WITHOUT_GUESTS = tuple(f"cli.{module}." for module in ("containers", "control", "engine", "help", "long_work"))
WITHOUT_GUESTS_SECONDS = 900
HOST_DIED = 125         # tools/test-host's exit code for it
HOSTS = 3               # that are tried
PROCESSORS = os.cpu_count() or 1
try:
    MINUTES = float(os.environ.get("VMM_TEST_MINUTES", "inf"))
except ValueError:
    sys.exit(f"test: VMM_TEST_MINUTES is '{os.environ['VMM_TEST_MINUTES']}', not a number of minutes such as 80")
BEGIN = time.monotonic()


def seconds_left(most):
    """Of $VMM_TEST_MINUTES, at most as many as given; 0 when it is over. It bounds the tests with guests, as they are the last: what is
    not reached is reported as skipped."""
    return max(0.0, min(most, MINUTES * 60 - (time.monotonic() - BEGIN)))


def parts_of(group, names):
    """What of a group was asked for: None for all, else names without the group's."""
    if group in names:
        return None
    return [name[len(group) + 1:] for name in names if name.startswith(group + ".")]


# ---- unit tests, each case a result

class Case:
    def __init__(self):
        self.log, self.how, self.seconds = [], None, None


def shards_of(program):
    """Into how many parts its cases are dealt (GoogleTest's sharding): the longest program would run alone at the end."""
    _, command, environment, folder = program
    try:
        code, output, _ = jobs.run([*command, "--gtest_list_tests"], 60, env={**os.environ, **environment}, cwd=folder)
    except OSError:
        return 1
    cases = sum(line.startswith("  ") for line in output.splitlines())
    return PROCESSORS if code == 0 and cases > SHARED_CASES else 1


def run_program(report, group, program, only, shard=0, shards=1):
    name, command, environment, folder = program
    options = [f"--gtest_random_seed={SEED}"]
    if only:
        options.append("--gtest_filter=" + ":".join(only))
    env = {"GTEST_SHARD_INDEX": str(shard), "GTEST_TOTAL_SHARDS": str(shards), **os.environ, **environment, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
           "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}
    output, begin = [], time.monotonic()
    try:
        code = jobs.lines([*command, *options], UNIT_SECONDS, output.append, silence=CASE_SECONDS, env=env, cwd=folder)
    except OSError as error:
        report.result(f"{group}.{name}", "FAILED", log=f"it cannot be started: {error}")
        return
    cases, current = {}, None
    for line in output:
        if match := re.match(r"\[ RUN      \] (\S+)", line):
            current = cases[match.group(1)] = Case()
        elif match := re.match(r"\[( +OK|  FAILED|  SKIPPED) \] (\S+?),? .*?\((\d+) ms\)$", line):
            case = cases.get(match.group(2), current)
            if case:
                case.how, case.seconds = match.group(1).strip(), int(match.group(3)) / 1000
                current = None
        elif current:
            current.log.append(line)
    bad = False
    for case_name, case in cases.items():
        full = f"{group}.{name}.{case_name}"
        log = "\n".join(case.log)
        if case.how == "OK":
            report.result(full, "ok", case.seconds)
        elif case.how == "SKIPPED":
            reason = " ".join(line for line in case.log if line.strip() and not re.search(r": Skipped$", line))
            report.result(full, "skipped", reason=reason or "it gives no reason")
        else:
            bad = True
            why = "" if case.how else f"\n{'it takes too long' if code is None else f'the program ended here, with {code}'}"
            report.result(full, "FAILED", case.seconds, log + why)
    if not bad and (code != 0 or not cases):
        report.result(f"{group}.{name}", "FAILED", time.monotonic() - begin, "\n".join(output[-40:]) +
                      f"\nthe program ended with {'a timeout' if code is None else code}, {len(cases)} tests ran")


def run_unit(report, group, build, only):
    with report.part(group):
        run_programs(report, group, build, only)


def run_programs(report, group, build, only):
    programs = []
    for program in build.tests():
        cases = [name[len(program[0]) + 1:] for name in only or [] if name.startswith(program[0] + ".")]
        if only is None or program[0] in only or cases:
            programs.append((program, [] if only is None or program[0] in only else cases))
    with concurrent.futures.ThreadPoolExecutor(PROCESSORS) as pool:
        counts = pool.map(lambda one: 1 if one[1] else shards_of(one[0]), programs)
        # Those in parts first: they are the longest.
        runs = sorted(((shard, count, one) for one, count in zip(programs, counts) for shard in range(count)), key=lambda run: -run[1])
        for done in [pool.submit(run_program, report, group, *one, shard, count) for shard, count, one in runs]:
            done.result()


# ---- fuzz targets

def run_fuzzer(report, build, name):
    binary = os.path.join(build.path, "tests/fuzz", f"{name}_fuzz")
    with tempfile.TemporaryDirectory(prefix="vmm-fuzz.") as work:
        corpus = os.path.join(work, "corpus")
        os.mkdir(corpus)
        for i, seed in enumerate(seeds.of(name)):
            with open(os.path.join(corpus, f"seed{i}"), "wb") as file:
                file.write(seed)
        # A crash prints its input, in base64: it can be tried again from the log alone. One seed finds the same again.
        command = [binary, f"-max_total_time={FUZZ_SECONDS}", f"-seed={SEED}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=16384",
                   f"-artifact_prefix={work}/", "-print_final_stats=1", corpus]
        code, output, seconds = jobs.run(command, FUZZ_SECONDS + 60, cwd=work,
                                         env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1",
                                              "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"})
        skipped = re.search(r"^skipped: (.*)", output, re.M)
        runs = re.search(r"stat::number_of_executed_units: (\d+)", output)
        if code == 0 and skipped:
            report.result(f"fuzz.{name}", "skipped", reason=skipped.group(1))
        elif code == 0 and runs:
            report.result(f"fuzz.{name}", "ok", seconds, reason=f"{runs.group(1)} inputs")
        else:
            begin = max(0, len(output.splitlines()) - 60)
            report.result(f"fuzz.{name}", "FAILED", seconds, "\n".join(output.splitlines()[begin:]))


def run_fuzz(report, build, only):
    names = [name for name in build.fuzzers() if only is None or name in only]
    with report.part("fuzz"), concurrent.futures.ThreadPoolExecutor(PROCESSORS) as pool:
        for done in [pool.submit(run_fuzzer, report, build, name) for name in names]:
            done.result()


# ---- what other programs run

def run_check(report, only):
    code = jobs.lines([os.path.join(ROOT, "tools/check"), *(only or [])], 900, report.lines("check."))
    if code is None:
        report.result("check", "FAILED", log="it takes too long")


def emulated_hosts():
    """(how many, memory of each) that this machine has room for: one of them has room for a guest of 6 GiB."""
    with open("/proc/meminfo") as meminfo:
        total = int(meminfo.readline().split()[1]) >> 20
    return max(1, min(PROCESSORS, 4, (total - 3) // 6)), "8G" if total >= 9 else "6G" if total >= 7 else "4G"


def shares(names, hosts):
    """A part of the names for each host, dealt forth and back: of tests that come in pairs, of which one takes longer, each has as many."""
    parts = [[] for _ in range(hosts)]
    for i, name in enumerate(names):
        turn, place = divmod(i, hosts)
        parts[place if turn % 2 == 0 else hosts - 1 - place].append(name)
    return parts


def run_guests(report, build, architecture, images, expected):
    """Tests of cli and vm, or of aarch64. Emulated hosts run side by side, each with a share of the tests."""
    host = [os.path.join(ROOT, "tools/test-host"), "--arch", architecture]
    emulated = subprocess.run([*host, "--print"], text=True, capture_output=True).stdout.strip() == "emulated"
    hosts, memory = emulated_hosts() if emulated else (1, "8G")
    if emulated:
        host += ["--mem", memory]
    environment = {**os.environ, **images, "VMM_TEST_BUILD": build.path, "VMM_TEST_PATIENCE":
                   os.environ.get("VMM_TEST_PATIENCE", "3" if emulated else "1")}
    # Some of them are of the superuser, which one is on an emulated host.
    here = [name for name in expected if emulated and os.geteuid() == 0 and name.startswith(WITHOUT_GUESTS)]
    if here:
        run_here(report, environment, here)
    if there := [name for name in expected if name not in here]:
        with concurrent.futures.ThreadPoolExecutor(hosts) as pool:
            for done in [pool.submit(run_share, report, host, environment, share) for share in shares(there, hosts)]:
                done.result()


def run_here(report, environment, names):
    lines = report.lines("cli.")
    code = jobs.lines([os.path.join(ROOT, "tests/vm/run"), *names], WITHOUT_GUESTS_SECONDS, lines, env=environment, cwd=ROOT)
    for name in names:
        if name not in lines.finished:
            report.result(name, "FAILED", log=f"the tests ended with {code} before this one did")


def run_share(report, host, environment, names):
    """In one boot of a host, where it lives that long."""
    lines, left, code = report.lines("cli.", "vm.", "aarch64."), names, 0
    for attempt in range(HOSTS):
        seconds = seconds_left(GUEST_SECONDS)
        if not left or not seconds:
            break
        code = jobs.lines([*host, "--timeout", f"{seconds:.0f}", os.path.join(ROOT, "tests/vm/run"), *left], seconds + 300, lines,
                          env=environment, cwd=ROOT)
        left = [name for name in names if name not in lines.finished]
        if code != HOST_DIED or not left:
            break
        # The others get another host; this one's end is a failure like any other.
        report.result(left[0], "FAILED", log=f"the host died in this test, with {len(left) - 1} to go")
        lines.finished.add(left[0])
        left = left[1:]
    if not seconds_left(1):
        skip_rest(report, left)
        return
    for name in left:
        report.result(name, "FAILED", log=f"the host ended with {code} before this test did")


def skip_rest(report, names):
    for name in names:
        report.result(name, "skipped", reason=f"the {MINUTES:g} minutes of VMM_TEST_MINUTES are over")


def list_guests(names):
    return subprocess.run([os.path.join(ROOT, "tests/vm/run"), "--list", *names], text=True, capture_output=True).stdout.split()


# ---- all together

def list_names(names):
    plain = builds.plain()
    unit = []
    if any(name.split(".")[0] in ("unit", "sanitize", "race") for name in names):
        plain.configure()
        unit = [test[0] for test in plain.tests()]
    for name in names:
        group = name.split(".")[0]
        if group in ("unit", "sanitize", "race"):
            found = [f"{group}.{test}" for test in unit]
        elif group == "check":
            out = subprocess.run([os.path.join(ROOT, "tools/check"), "--list"], text=True, capture_output=True).stdout
            found = [f"check.{line.split()[0]}" for line in out.splitlines()]
        elif group == "fuzz":
            with open(os.path.join(ROOT, "tests/fuzz/meson.build")) as file:
                found = [f"fuzz.{target}" for target in re.findall(r"^    '(\w+)':", file.read(), re.M)]
        else:
            found = list_guests([group])
        print("\n".join(f for f in found if f == name or f.startswith(name + ".")))


class Images(threading.Thread):
    """Makes the images while the program is compiled: the root and the stock kernels wait for the network mostly."""

    def __init__(self, report, architecture):
        super().__init__(daemon=True)
        self._report, self._architecture, self._paths, self._error = report, architecture, None, None

    def run(self):
        try:
            if self._architecture != NATIVE:
                with self._report.part(f"packages for {self._architecture}"):
                    self._do(os.path.join(ROOT, "tools/setup"), f"--{self._architecture}")
            with self._report.part(f"images of {self._architecture} (beside the rest)"):
                self._paths = builds.make_images(self._architecture, self._report.say)
            # The emulated host's kernel and initramfs, too.
            with self._report.part(f"host of {self._architecture} (beside the rest)"):
                self._do(os.path.join(ROOT, "tools/test-host"), "--arch", self._architecture, "--timeout", "60", "true")
        except BuildFailed as error:
            self._error = error

    def _do(self, *command):
        code, output, _ = jobs.run(command, builds.BUILD_SECONDS)
        if code != 0:
            raise BuildFailed(f"{output}\n{' '.join(command)} ended with {code}")

    def paths(self):
        if self.ident is None:
            self.start()
        self.join(seconds_left(threading.TIMEOUT_MAX))
        if self.is_alive():
            raise BuildFailed(f"the images of {self._architecture} take too long")
        if self._error:
            raise self._error
        return self._paths


def attempt(report, name, function, *arguments):
    """A group that cannot even begin is a failure."""
    try:
        function(*arguments)
    except BuildFailed as error:
        report.result(name, "FAILED", log=str(error))


def build_and(run, build, report, *arguments):
    with report.part(os.path.basename(build.path)):
        build.build(report.say)
    run(report, *arguments)


def main(words):
    names = [word for word in words if not word.startswith("-")] or GROUPS + (FOREIGN if "--all" in words else [])
    for word in words:
        if word.startswith("-") and word not in ("--list", "--all") or not word.startswith("-") and word.split(".")[0] not in GROUPS + EXTRA:
            print(f"test: there is no '{word}'; the groups are {', '.join(GROUPS + EXTRA)} (see --help)", file=sys.stderr)
            return 1
    if "--list" in words:
        list_names(names)
        return 0
    report = Report()
    plain, sanitized, images = builds.plain(), builds.sanitized(), Images(report, NATIVE)
    wanted = [group for group in GROUPS + EXTRA if any(name.split(".")[0] == group for name in names)]
    guests = [name for name in names if name.split(".")[0] in ("cli", "vm", NATIVE)]
    foreign = {one: named for one in FOREIGN if (named := [name for name in names if name.split(".")[0] == one])}
    if guests:
        images.start()
    if "unit" in wanted:
        attempt(report, "unit", lambda: build_and(run_unit, plain, report, "unit", plain, parts_of("unit", names)))
    if "check" in wanted:
        with report.part("check"):
            run_check(report, parts_of("check", names))
    if "sanitize" in wanted:
        attempt(report, "sanitize", lambda: build_and(run_unit, sanitized, report, "sanitize", sanitized, parts_of("sanitize", names)))
    if "race" in wanted:
        racy = builds.race()
        attempt(report, "race", lambda: build_and(run_unit, racy, report, "race", racy, parts_of("race", names)))
    if "fuzz" in wanted:
        attempt(report, "fuzz", lambda: build_and(run_fuzz, sanitized, report, sanitized, parts_of("fuzz", names)))
    if guests:
        attempt(report, guests[0], test_guests, report, NATIVE, guests, plain, images)
    for architecture, named in foreign.items():
        attempt(report, named[0], test_guests, report, architecture, named, builds.cross(architecture), Images(report, architecture))
    report.say(f"after {(time.monotonic() - BEGIN) / 60:.1f} minutes:")
    return report.finish()


def test_guests(report, architecture, names, build, images):
    expected = list_guests(names)
    if not seconds_left(1):
        skip_rest(report, expected)
        return
    try:
        with report.part("waiting for images"):
            paths = images.paths()      # first: with them comes what the cross compiler needs
        with report.part(os.path.basename(build.path)):
            build.build(report.say, seconds_left(builds.BUILD_SECONDS))
        if any(name.startswith(("vm.agent.", "vm.containers.")) for name in expected):    # not cross compiled yet
            paths = {**paths, **builds.make_agent(build, report.say)}
        with tempfile.TemporaryDirectory(prefix="vmm-package.", dir=build.path) as folder:
            if any(name.startswith("vm.package.") for name in expected):
                builds.make_package(build, folder)
                paths = {**paths, "VMM_TEST_PACKAGE": folder}
            with report.part("guests of " + architecture):
                run_guests(report, build, architecture, paths, expected)
    except BuildFailed:
        if seconds_left(1):
            raise
        skip_rest(report, expected)


def on_signal(number, _):
    jobs.end_all()
    os._exit(128 + number)


if __name__ == "__main__":
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, on_signal)
    try:
        code = main(sys.argv[1:])
    finally:
        jobs.end_all()
    sys.exit(code)
