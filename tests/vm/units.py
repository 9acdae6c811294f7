"""Unit tests that want what only a real host has: taps, vhost, KVM, kernels of distributions."""
import os
import re
import subprocess

from harness import test


def cases(t, program, filter, expected, **environment):
    """Runs cases of a unit test program; all of `expected` must have passed, none may fail."""
    path = os.path.join(t.images.build, program)
    result = subprocess.run([path, f"--gtest_filter={filter}"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env={**os.environ, **environment}, timeout=120 * t.patience, cwd=t.folder)
    t.equal(result.returncode, 0, result.stdout)
    passed = re.findall(r"\[ +OK \] (\S+)", result.stdout)
    for name in expected:
        t.true(name in passed, f"{name} did not run: {result.stdout}")


@test(only="x86_64")
def taps_and_vhost(t):
    cases(t, "devices/virtio/net/virtio_net_test", "Tap*",
          ["TapTest.ErrorsNameTheTap", "TapDeviceTest.SeveralPairs", "TapDeviceTest.VhostServesTheQueues",
           "TapDeviceTest.VhostFindsBrokenRings"])


@test(only="x86_64")
def kvm(t):
    cases(t, "src/hypervisor/x86_64/arch_test", "Kvm.*", ["Kvm.TakesAMachine"])


@test(only="x86_64")
def real_kernels(t):
    kernels = [t.images.path(name) for name in ("VMM_TEST_BZIMAGE", "VMM_TEST_KERNEL", "VMM_TEST_STOCK61", "VMM_TEST_STOCK612")]
    cases(t, "firmware/loader/loader_test", "KernelTest.RealKernels", ["KernelTest.RealKernels"],
          VMM_TEST_KERNELS=":".join(kernels))
