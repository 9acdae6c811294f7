"""What differs between the architectures of hosts, as a guest of ours finds it."""
import platform

NAMES = ("x86_64", "aarch64")
HERE = platform.machine()

CONSOLE = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
CLOCK_SOURCE = {"x86_64": "kvm-clock", "aarch64": "arch_sys_counter"}
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
