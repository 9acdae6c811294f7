// Says hello, with nothing but the kernel below it.
static const char kText[] =
    "\n"
    "Hello from vmm!\n"
    "This message shows that your installation works.\n"
    "\n"
    "To get here, vmm\n"
    "  1. found or pulled the image \"hello-world\",\n"
    "  2. started a virtual machine with a kernel of its own, whose root is that image,\n"
    "  3. ran the image's program in it, and sent you what it said.\n"
    "\n"
    "Something larger: vmm run -it debian bash\n"
    "\n";

static long call(long number, long a, long b, long c) {
#if defined(__x86_64__)
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
#endif
}

#if defined(__x86_64__)
enum { kWrite = 1, kExit = 60 };
#else
enum { kWrite = 64, kExit = 93 };
#endif

void _start(void) {
  const long size = sizeof kText - 1;
  long at = 0;
  while (at < size) {
    const long n = call(kWrite, 1, (long)(kText + at), size - at);
    if (n <= 0) call(kExit, 1, 0, 0);
    at += n;
  }
  call(kExit, 0, 0, 0);
}
