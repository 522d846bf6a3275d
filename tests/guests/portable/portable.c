/* A program for any x86-64 processor: no library that looks for features, nothing beyond SSE2. Small, because what is
   saved of it is kept with the tests. */

#include "vmm_guest.h"

enum { OPENAT = 257, WRITE = 1, READ = 0, LSEEK = 8, PIPE2 = 293, MKDIR = 83, CHDIR = 80, GETCWD = 79, EXIT = 231 };
enum { AT_FDCWD = -100, RDWR_CREATE_APPEND = 02 | 0100 | 02000 };

static double sums[64];
static uint64_t steps;
static int pipe_ends[2];
static long file;

static long call(long number, long a, long b, long c, long d) { return vmm_system_call(number, a, b, c, d); }

/* Goes on with a computation in doubles; a hash of where that has led. */
uint64_t advance(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++, steps++)
        for (int i = 0; i < 64; i++)
            sums[i] = sums[(i + 1) % 64] * 0.999 + 1.0 / (double)(steps + i + 1);
    uint64_t hash = 1469598103934665603u;
    for (int i = 0; i < 64; i++) {
        uint64_t bits;
        __builtin_memcpy(&bits, &sums[i], sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    return hash;
}

/* Rounds as the processor was told before it was saved. */
int64_t rounded(double number)
{
    int64_t integer;
    __asm__("cvtsd2si %1, %0" : "=r"(integer) : "x"(number));
    return integer;
}

/* What was put into the pipe before. */
int64_t from_pipe(void)
{
    int64_t value = 0;
    long got = call(READ, pipe_ends[0], (long)&value, sizeof value, 0);
    return got == sizeof value ? value : got;
}

/* Adds to the file that was opened before; its length then. */
int64_t add_line(void)
{
    call(WRITE, file, (long)"line\n", 5, 0);
    return call(LSEEK, file, 0, 2, 0);
}

/* The length of the path of the directory it is in. */
int64_t where(void)
{
    static char path[64];
    return call(GETCWD, (long)path, sizeof path, 0, 0);
}

int64_t call_host(int64_t n)
{
    struct vmm_value argument = vmm_integer(n), result;
    long status = vmm_call("add", &argument, 1, &result);
    return status != 0 ? status : (int64_t)result.word;
}

void identity(unsigned char *to)
{
    for (int i = 0; i < 16; i++)
        to[i] = vmm_identity[i];
}

void begin(void)
{
    const uint32_t round_up = 0x5f80;
    int64_t value = 77;
    __asm__("ldmxcsr %0" : : "m"(round_up));
    advance(1000);
    call(MKDIR, (long)"/tmp/deep", 0700, 0, 0);
    call(CHDIR, (long)"/tmp/deep", 0, 0, 0);
    file = call(OPENAT, AT_FDCWD, (long)"../log", RDWR_CREATE_APPEND, 0600);
    call(PIPE2, (long)pipe_ends, 0, 0, 0);
    call(WRITE, pipe_ends[1], (long)&value, sizeof value, 0);
    add_line();
    call(WRITE, 1, (long)"ready\n", 6, 0);
    vmm_ready();
    call(EXIT, 1, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tcall begin\n");
