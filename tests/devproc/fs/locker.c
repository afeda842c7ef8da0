/* locker FILE: lock all of the file for writing, say "locked", and wait for a line. Without a C library: Linux's system
   calls for RISC-V. */

static long call(long number, long a, long b, long c, long d)
{
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a7) : "memory");
    return a0;
}

enum { FCNTL = 25, OPENAT = 56, READ = 63, WRITE = 64, EXIT = 93, AT_FDCWD = -100, O_RDWR = 2, F_SETLKW = 7 };

struct lock {
    short type, whence;
    long start, length;
    int pid;
};

void run(long *stack)
{
    static struct lock lock = {1, 0, 0, 0, 0};
    char line[16];
    long file = call(OPENAT, AT_FDCWD, stack[2], O_RDWR, 0);
    if (call(FCNTL, file, F_SETLKW, (long)&lock, 0) != 0)
        call(EXIT, 1, 0, 0, 0);
    call(WRITE, 1, (long)"locked\n", 7, 0);
    call(READ, 0, (long)line, sizeof line, 0);
    call(EXIT, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start: mv a0, sp\n call run");
