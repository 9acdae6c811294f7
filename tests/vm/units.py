"""Unit tests that want what only a real host has: taps, vhost, KVM, kernels of distributions."""
from harness import test
from harness.programs import cases


@test(only="x86_64")
def taps_and_vhost(t):
    cases(t, "devices/virtio/net/virtio_net_test", "Tap*",
          ["TapTest.ErrorsNameTheTap", "TapDeviceTest.SeveralPairs", "TapDeviceTest.VhostServesTheQueues",
           "TapDeviceTest.VhostFindsBrokenRings", "TapDeviceTest.VhostWithoutItsTapNeedsNoReset"])


@test(only="x86_64")
def kvm(t):
    cases(t, "src/hypervisor/x86_64/arch_test", "Kvm.*", ["Kvm.TakesAMachine"])


@test(only="x86_64")
def real_kernels(t):
    kernels = [t.images.path(name) for name in ("VMM_TEST_BZIMAGE", "VMM_TEST_KERNEL", "VMM_TEST_STOCK61")]
    cases(t, "firmware/loader/loader_test", "KernelTest.RealKernels", ["KernelTest.RealKernels"],
          VMM_TEST_KERNELS=":".join(kernels))
