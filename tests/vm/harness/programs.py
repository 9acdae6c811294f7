"""Unit test programs, run where there is what they want."""
import os
import re
import subprocess


def cases(t, program, filter, expected, **environment):
    """Runs cases of a unit test program; all of `expected` must have passed, none may fail."""
    path = os.path.join(t.images.build, program)
    result = subprocess.run([path, f"--gtest_filter={filter}"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env={**os.environ, **environment}, timeout=120 * t.patience, cwd=t.folder)
    t.equal(result.returncode, 0, result.stdout)
    passed = re.findall(r"\[ +OK \] (\S+)", result.stdout)
    for name in expected:
        t.true(name in passed, f"{name} did not run: {result.stdout}")
