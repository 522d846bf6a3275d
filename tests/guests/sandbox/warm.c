/* A program that is snapshot, forked and reset: its memory can be told apart by a hash of every page of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <vmm_guest.h>

enum { PAGE = 4096, PAGES = 700, WORDS = PAGE / 8 };

static uint64_t statics[PAGES][WORDS];
static uint64_t *heap;   /* as many pages, from malloc */
static uint64_t *mapped; /* as many pages, from mmap */
static int log_file, pipe_ends[2];
static int64_t counter;

static uint64_t next(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

static uint64_t *page(int which, size_t n)
{
    return which == 0 ? statics[n] : which == 1 ? heap + n * WORDS : mapped + n * WORDS;
}

/* Writes all of every page. */
void rewrite(uint64_t seed)
{
    uint64_t x = seed * 2 + 1;
    for (int which = 0; which < 3; which++)
        for (size_t n = 0; n < PAGES; n++)
            for (size_t i = 0; i < WORDS; i++)
                page(which, n)[i] = x = next(x);
}

/* Writes one word of each of `count` pages. */
void touch(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++)
        page(n % 3, n / 3 % PAGES)[0]++;
}

uint64_t hash(void)
{
    uint64_t h = 0xcbf29ce484222325;
    for (int which = 0; which < 3; which++)
        for (size_t n = 0; n < PAGES; n++)
            for (size_t i = 0; i < WORDS; i++)
                h = (h ^ page(which, n)[i]) * 0x100000001b3;
    return h;
}

int64_t count(void) { return ++counter; }
void nothing(void) {}

/* Changes what is mapped where: gives back, protects, moves, takes anew. */
int64_t churn(int64_t rounds)
{
    uint64_t x = 88172645463325252u;
    char *kept[16] = {0};
    size_t length[16] = {0};
    for (int64_t n = 0; n < rounds; n++) {
        int i = (x = next(x)) % 16;
        if (kept[i] != NULL && munmap(kept[i], length[i]) != 0)
            return -errno;
        length[i] = ((x = next(x)) % 40 + 1) * PAGE;
        kept[i] = mmap(NULL, length[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (kept[i] == MAP_FAILED)
            return -errno;
        for (size_t at = 0; at < length[i]; at += PAGE) {
            if (kept[i][at] != 0)
                return -1;
            kept[i][at] = 1;
        }
        if (mprotect(kept[i], PAGE, PROT_READ) != 0)
            return -errno;
    }
    /* Of what others hold on to, a piece in the middle goes too. */
    if (munmap(mapped + 100 * WORDS, 64 * PAGE) != 0 || mprotect((char *)(((uintptr_t)heap | (PAGE - 1)) + 1), PAGE, PROT_READ) != 0)
        return -errno;
    return 0;
}

/* Maps again what churn() has given back, with what it had: nothing. */
int64_t mend(void)
{
    char *at = (char *)(mapped + 100 * WORDS);
    if (mmap(at, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
        return -errno;
    return mprotect((char *)(((uintptr_t)heap | (PAGE - 1)) + 1), PAGE, PROT_READ | PROT_WRITE) == 0 ? 0 : -errno;
}

/* Maps single pages so far apart that each takes page tables of its own. */
int64_t scatter(int64_t count)
{
    for (int64_t n = 0; n < count; n++) {
        char *at = (char *)0x100000000000 + n * (1l << 30);
        if (mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
            return -errno;
        *at = 1;
    }
    return count;
}

/* Reads a byte that only scatter() maps. */
int64_t peek(int64_t n) { return *((volatile char *)0x100000000000 + n * (1l << 30)); }

int64_t die(void) { return *(volatile int *)8; }
int64_t leave(void) { exit(3); }
int64_t spin(void) { for (;;) __asm__ volatile("" ::: "memory"); }
int64_t set_thread_pointer(void)
{
    /* What a program may change of the processor: segments, flags, vector registers. */
    __asm__ volatile("movw %%ds, %%ax\n movw %%ax, %%es\n std\n pcmpeqd %%xmm7, %%xmm7\n cld" ::: "rax", "xmm7");
    return 0;
}

void identity(unsigned char *to, size_t length)
{
    for (size_t i = 0; i < length && i < sizeof vmm_identity; i++)
        to[i] = vmm_identity[i];
}

int64_t random_number(void)
{
    int64_t number = 0;
    return getrandom(&number, sizeof number, 0) == sizeof number ? number : -1;
}

int64_t uptime(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t call_host(int64_t n)
{
    struct vmm_value argument = vmm_integer(n), result;
    long status = vmm_call("add", &argument, 1, &result);
    return status != 0 ? status : (int64_t)result.word;
}

/* Adds a line to the file that was open before; its length then. */
int64_t log_line(const char *line)
{
    struct stat status;
    if (write(log_file, line, strlen(line)) < 0 || fstat(log_file, &status) != 0)
        return -errno;
    return status.st_size;
}

/* The length of the file by its name, or of what another name leads to. */
int64_t log_length(void)
{
    struct stat status;
    return stat("/tmp/deep/../log", &status) == 0 ? status.st_size : -errno;
}

int64_t remove_log(void) { return unlink("/tmp/log") == 0 ? 0 : -errno; }

/* Through the pipe that was made before. */
int64_t through_pipe(int64_t value)
{
    int64_t got = 0;
    if (write(pipe_ends[1], &value, sizeof value) != sizeof value)
        return -errno;
    return read(pipe_ends[0], &got, sizeof got) == sizeof got ? got : -errno;
}

/* One line of standard input. */
int64_t line(char *to, size_t length)
{
    size_t n = 0;
    while (n < length && read(0, to + n, 1) == 1 && to[n] != '\n')
        n++;
    return n;
}

void say(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

int main(void)
{
    heap = malloc(PAGES * PAGE);
    mapped = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (heap == NULL || mapped == MAP_FAILED)
        return 1;
    rewrite(1);
    if (mkdir("/tmp/deep", 0700) != 0 || chdir("/tmp/deep") != 0 || pipe(pipe_ends) != 0)
        return 2;
    log_file = open("../log", O_CREAT | O_RDWR | O_APPEND, 0600);
    if (log_file < 0 || write(log_file, "started\n", 8) != 8)
        return 3;
    say("warm");
    vmm_ready();
    return 4;
}
