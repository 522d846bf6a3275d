/* System calls without sense: every number, arguments that are mostly wrong. The first argument is
 * the seed, the second how many. What the calls leave of the program is its own problem: it works
 * with registers, what it has on its stack may be gone. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>

static uint64_t state;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static char buffer[1 << 16] = "/proc/self/../self/fd/0";

static uint64_t argument(void)
{
    static const uint64_t odd[] = {
        0, 1, 2, 3, 7, 8, 63, 64, 4095, 4096, 4097, 8192, 0x10000, 1 << 20, 1u << 31, 0xffffffff,
        -1, -2, -4096, -100, 1ul << 47, (1ul << 47) - 4096, 1ul << 63, 0x7f0000000000,
        0x7fffffff0000, 0x7fffffff1000, 0x200000, 0x7f8000000000,
        0x22, 0x32, 0x100022, /* flags of mmap */
    };
    uint64_t n = next();
    switch (n % 8) {
    case 0: case 1: case 2: return odd[(n >> 8) % (sizeof odd / sizeof *odd)];
    case 3: case 4: return (uint64_t)buffer + (n >> 8) % 3 * 4090;
    case 5: return (n >> 8) % 10;
    case 6: return 0x100000000 + (n >> 8) % 64 * 4096;
    default: return n >> (n >> 8) % 64;
    }
}

static int ends_or_waits(long number)
{
    switch (number) {
    case SYS_exit: case SYS_exit_group: case SYS_kill: case SYS_tkill: case SYS_tgkill:
    case SYS_poll: case SYS_ppoll: case SYS_select: case SYS_pselect6: case SYS_pause:
    case SYS_nanosleep: case SYS_clock_nanosleep:
        return 1;
    default:
        return 0;
    }
}

int main(int argc, char **argv)
{
    state = argc > 1 ? strtoull(argv[1], 0, 0) * 2654435761u + 88172645463325252u : 1;
    long count = argc > 2 ? atol(argv[2]) : 1000;
    while (count-- > 0) {
        long number = next() % 470, result;
        /* What would end it or hold it up is rare. */
        if (ends_or_waits(number) && next() % 64)
            continue;
        register uint64_t r10 __asm__("r10") = argument();
        register uint64_t r8 __asm__("r8") = argument();
        register uint64_t r9 __asm__("r9") = argument();
        __asm__ volatile("syscall"
                         : "=a"(result)
                         : "a"(number), "D"(argument()), "S"(argument()), "d"(argument()),
                           "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
    }
    return 0;
}
