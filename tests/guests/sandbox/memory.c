/* Memory calls: what they answer, and what is in memory afterwards. Prints nothing that depends on
 * where things are, so that it can be compared with a run on Linux itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static char *map(size_t pages) { return mmap(0, pages * PAGE, RW, ANON, -1, 0); }

static void answer(const char *what, long result)
{
    printf("%s: %s\n", what, result == -1 ? strerror(errno) : "fine");
}

/* A number for each page of a range: what it was filled with, or 0. */
static void fill(char *at, size_t pages, char with)
{
    for (size_t i = 0; i < pages; i++)
        memset(at + i * PAGE, with + (char)i, PAGE);
}

static void show(const char *what, const char *at, size_t pages)
{
    printf("%s:", what);
    for (size_t i = 0; i < pages; i++) {
        int same = 1;
        for (size_t k = 1; k < PAGE; k++)
            same &= at[i * PAGE + k] == at[i * PAGE];
        printf(same ? " %d" : " (%d)", at[i * PAGE]);
    }
    puts("");
}

static void answers(void)
{
    char *p = map(4);
    answer("mmap of nothing", (long)mmap(0, 0, RW, ANON, -1, 0));
    answer("mmap of too much", (long)mmap(0, 1UL << 47, RW, ANON, -1, 0));
    answer("mmap at an odd place", (long)mmap(p + 1, PAGE, RW, ANON | MAP_FIXED, -1, 0));
    answer("mmap in the kernel", (long)mmap((void *)(1UL << 63), PAGE, RW, ANON | MAP_FIXED, -1, 0));
    answer("mmap of no file", (long)mmap(0, PAGE, RW, MAP_PRIVATE, 77, 0));
    answer("mmap where there is something",
           (long)mmap(p, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    answer("munmap of nothing", munmap(p, 0));
    answer("munmap at an odd place", munmap(p + 1, PAGE));
    answer("munmap of the kernel", munmap((void *)(1UL << 63), PAGE));
    answer("munmap of what wraps", munmap(p, -PAGE));
    answer("munmap in the middle", munmap(p + PAGE, PAGE));
    answer("munmap of it again", munmap(p + PAGE, PAGE));
    answer("mprotect over a hole", mprotect(p, 4 * PAGE, PROT_READ));
    answer("mprotect at an odd place", mprotect(p + 1, PAGE, PROT_READ));
    answer("mprotect with strange bits", mprotect(p, PAGE, 0x100));
    answer("mremap over a hole", (long)mremap(p, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE));
    answer("mremap to nothing", (long)mremap(p, PAGE, 0, MREMAP_MAYMOVE));
    answer("mremap onto itself",
           (long)mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p));
    answer("madvise with strange advice", madvise(p, PAGE, 9999));
    munmap(p, 4 * PAGE);
}

static void contents(void)
{
    char *p = map(8);
    fill(p, 8, 10);
    show("filled", p, 8);
    munmap(p + 2 * PAGE, 3 * PAGE);
    mmap(p + 2 * PAGE, 3 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    show("a hole filled again", p, 8);
    mmap(p + PAGE, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    show("mapped over", p, 8);
    fill(p, 8, 20);
    madvise(p + PAGE, 2 * PAGE, MADV_DONTNEED);
    show("discarded", p, 8);
    mprotect(p + 3 * PAGE, 2 * PAGE, PROT_NONE);
    mprotect(p + 3 * PAGE, 2 * PAGE, RW);
    show("closed and opened", p, 8);
    mprotect(p, 8 * PAGE, PROT_READ);
    answer("read into what is read-only", syscall(SYS_getrandom, p, 16, 0));
    mprotect(p, 8 * PAGE, RW);
    show("read-only and back", p, 8);
    char *q = mremap(p, 8 * PAGE, 300 * PAGE, MREMAP_MAYMOVE);
    show("grown", q, 10);
    fill(q, 300, 1);
    q = mremap(q, 300 * PAGE, 5 * PAGE, 0);
    show("shrunk", q, 5);
    char *place = map(20);
    fill(place, 20, 50);
    char *r = mremap(q, 5 * PAGE, 7 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place + 3 * PAGE);
    printf("moved there: %d\n", r == place + 3 * PAGE);
    show("moved over", place, 12);
    answer("where it was", syscall(SYS_getrandom, q, 16, 0));
    munmap(place, 20 * PAGE);
    char *reserved = mmap(0, 1UL << 36, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    answer("a reserve of 64 GiB", (long)reserved);
    mprotect(reserved + (1UL << 35), 3 * PAGE, RW);
    show("some of the reserve", reserved + (1UL << 35), 3);
    munmap(reserved, 1UL << 36);
}

static void heap(void)
{
    char *start = sbrk(0);
    start = (char *)(((uintptr_t)start + PAGE - 1) & -PAGE);
    brk(start + 6 * PAGE);
    fill(start, 6, 30);
    show("heap", start, 6);
    brk(start + 2 * PAGE);
    brk(start + 6 * PAGE);
    show("heap again", start, 6);
    printf("too low: %d\n", brk((void *)PAGE));
    brk(start);
}

/* Code that is written, protected, run and changed: stale translations would show. */
static void code(void)
{
    unsigned char *p = mmap(0, PAGE, RW, ANON, -1, 0);
    for (int i = 0; i < 50; i++) {
        const unsigned char function[] = {0xb8, i, 0, 0, 0, 0xc3}; /* mov $i, %eax; ret */
        memcpy(p, function, sizeof function);
        mprotect(p, PAGE, PROT_READ | PROT_EXEC);
        if (((int (*)(void))p)() != i)
            printf("stale code %d\n", i);
        mprotect(p, PAGE, RW);
    }
    puts("code ran");
}

/* Many mappings of many sizes, each with its own contents, in an order without a pattern. */
static void many(void)
{
    enum { SLOTS = 40 };
    static struct { char *at; size_t pages; char with; } slots[SLOTS];
    uint32_t state = 12345, wrong = 0;
    for (int step = 0; step < 2000; step++) {
        state = state * 1664525 + 1013904223;
        int i = (state >> 8) % SLOTS;
        size_t pages = (state >> 16) % 24 + 1;
        if (slots[i].at) {
            for (size_t k = 0; k < slots[i].pages; k++)
                wrong += slots[i].at[k * PAGE] != slots[i].with || slots[i].at[k * PAGE + PAGE - 1];
            if (state >> 31) {
                slots[i].at = mremap(slots[i].at, slots[i].pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
                for (size_t k = slots[i].pages; k < pages; k++) {
                    wrong += slots[i].at[k * PAGE] != 0;
                    slots[i].at[k * PAGE] = slots[i].with;
                }
                slots[i].pages = pages;
            } else {
                munmap(slots[i].at, slots[i].pages * PAGE);
                slots[i].at = NULL;
            }
            continue;
        }
        slots[i].at = map(pages);
        slots[i].pages = pages;
        slots[i].with = (char)(step | 1);
        for (size_t k = 0; k < pages; k++) {
            wrong += slots[i].at[k * PAGE] != 0;
            slots[i].at[k * PAGE] = slots[i].with;
        }
    }
    printf("many: %u wrong\n", wrong);
}

int main(void)
{
    setvbuf(stdout, malloc(1 << 16), _IOFBF, 1 << 16);
    answers();
    contents();
    heap();
    code();
    many();
    for (size_t size = 1; size < 4 << 20; size *= 3) {
        char *p = realloc(calloc(1, size), size * 2);
        printf("%d", p != NULL && p[0] == 0 && p[size - 1] == 0);
        free(p);
    }
    puts("");
    return 0;
}
