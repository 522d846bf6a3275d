/* What sandboxes are measured with. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <vmm_guest.h>

static char pages[8192][4096];

void nothing(void) {}

/* Writes a word of each of so many pages. */
void touch(long count)
{
    for (long n = 0; n < count; n++)
        ++*(volatile long *)pages[n];
}

void spin(void)
{
    for (;;)
        __asm__ volatile("");
}

void call_always(void)
{
    for (;;)
        syscall(SYS_getppid);
}

/* Maps and unmaps, so that page tables change. */
void map_always(void)
{
    for (;;) {
        char *at = mmap(0, 16 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *at = 1;
        munmap(at, 16 << 12);
    }
}

/* Has so many bytes in use. */
void commit(long bytes)
{
    char *at = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long n = 0; n < bytes; n += 4096)
        at[n] = 1;
}

void host(void)
{
    vmm_call("nothing", 0, 0, 0);
}

void call_kernel(long times)
{
    while (times-- > 0)
        syscall(SYS_getppid);
}

/* Registers only. */
static uint64_t registers(void)
{
    uint64_t x = 1, y = 2;
    for (long i = 0; i < 5 * 1000 * 1000; i++) {
        x = x * 6364136223846793005 + y;
        y ^= x >> 29;
    }
    return x + y;
}

static uint32_t rotated(uint32_t x, int by) { return x >> by | x << (32 - by); }

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* The compression function of SHA-256 (FIPS 180-4), over what it has made itself. */
static uint64_t sha256(void)
{
    uint32_t state[8] = {1, 2, 3, 4, 5, 6, 7, 8}, w[64];
    for (int block = 0; block < 20 * 1000; block++) {
        for (int i = 0; i < 16; i++)
            w[i] = state[i % 8] + block + i;
        for (int i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + w[i - 7] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) +
                   (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
        }
        uint32_t s[8];
        memcpy(s, state, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
            uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
            uint32_t e = rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25);
            uint32_t a = rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22);
            uint32_t t = s[7] + e + choice + w[i] + constants[i];
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += t;
            s[0] = t + a + majority;
        }
        for (int i = 0; i < 8; i++)
            state[i] += s[i];
    }
    return state[0];
}

#define SIZE 200

static uint64_t matrix(void)
{
    static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            a[i][j] = i + j;
            b[i][j] = 1.0 / (i + j + 1);
        }
    for (int i = 0; i < SIZE; i++)
        for (int k = 0; k < SIZE; k++)
            for (int j = 0; j < SIZE; j++)
                c[i][j] += a[i][k] * b[k][j];
    return c[3][5] > 0;
}

/* Prints how many nanoseconds it took. */
static int compute(uint64_t (*work)(void))
{
    struct timespec from, to;
    work();
    clock_gettime(CLOCK_MONOTONIC, &from);
    volatile uint64_t result = work();
    clock_gettime(CLOCK_MONOTONIC, &to);
    (void)result;
    printf("%ld\n", (to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "registers"))
        return compute(registers);
    if (!strcmp(what, "sha256"))
        return compute(sha256);
    if (!strcmp(what, "matrix"))
        return compute(matrix);
    vmm_ready();
    return 1;
}
