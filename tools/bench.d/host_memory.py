"""What an emulated host's memory costs whoever writes to it first, paid before the clock runs."""
import mmap
import re

HUGE_PAGE = 2 << 20
# More than a guest of a benchmark that starts guests has.
RECENT = 512 << 20


def write_over(size, step):
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, step):
            memory[at] = 1


def touch_all():
    """The emulator's memory is the machine's only once it was touched: else the guest pays that happens to come first."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        available = int(re.search(r"MemAvailable: +(\d+)", meminfo.read()).group(1)) << 10
    write_over(available // 10 * 9 // HUGE_PAGE * HUGE_PAGE, 4096)


def forget_last_guest():
    """Where a guest's kernel ran, the emulator keeps its translation, and gives that up page by page, as these are written to:
    zeroing 2 MiB there took 100 to 240 ms instead of 10, in the start of whichever monitor got them next. The host gives out
    first what was freed last, in huge pages."""
    write_over(RECENT, HUGE_PAGE)
