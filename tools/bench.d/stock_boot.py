"""Cold boot of Debian's own 6.1 cloud kernel, as shipped, to the first line of the same init, and to its end."""
import boot

NATIVE = False
UNIT = "seconds"
LESS_IS_BETTER = True


def run(environment):
    yield from boot.measure(environment, environment.images["stock_kernel"])
