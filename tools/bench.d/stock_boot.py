"""Cold boot of Debian's own cloud kernels, as shipped, to the first line of the same init, and to its end."""
import boot

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True
KERNELS = {"6.12": "CLOUD6.12", "6.1": "CLOUD6.1"}


def run(environment):
    for version, name in KERNELS.items():
        kernel = environment.images[f"stock_{name}"]
        for row, peer, value in boot.measure(environment, kernel["vmlinuz"], kernel["vmlinux"]):
            yield f"{version}: {row}", peer, value
