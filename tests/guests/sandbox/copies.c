/* memcpy, memmove, memset, memcmp and strlen at all alignments and page borders, against loops. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096 };
static uint8_t expected[4 * PAGE];

static uint8_t *pages(void)
{
    uint8_t *at = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* What is behind the second and before the first is not there. */
    mprotect(at + 3 * PAGE, PAGE, PROT_NONE);
    mprotect(at, PAGE, PROT_NONE);
    return at + PAGE;
}

static void check(const char *what, const uint8_t *at, size_t size, size_t n)
{
    if (memcmp(at, expected, size) != 0)
        printf("%s of %zu is wrong\n", what, n);
}

int main(void)
{
    uint8_t *a = pages(), *b = pages();
    size_t sizes[] = { 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128,
                       129, 255, 256, 257, 511, 1000, 2047, 2048, 4095, 4096 };
    unsigned checks = 0;
    uint64_t sum = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        for (size_t from = 0; from < 34; from++)
            for (size_t to = 0; to < 34; to += 1 + from % 3) {
                /* From the beginning, and up to the very end. */
                uint8_t *src = from < 17 ? a + from : a + 2 * PAGE - n - (from - 17);
                uint8_t *dst = to < 17 ? b + to : b + 2 * PAGE - n - (to - 17);
                for (size_t i = 0; i < n; i++)
                    src[i] = expected[i] = i * 7 + from + to + n;
                memcpy(dst, src, n);
                check("memcpy", dst, n, n);
                memset(dst, from, n);
                for (size_t i = 0; i < n; i++)
                    if (dst[i] != (uint8_t)from)
                        printf("memset of %zu is wrong\n", n);
                if (n > 20) {
                    size_t by = 1 + to % 17;
                    memmove(src + by, src, n - by);
                    check("memmove up", src + by, n - by, n);
                    memmove(src, src + by, n - by);
                    check("memmove down", src, n - by, n);
                }
                if (n > 0) {
                    memset(dst, 'x', n);
                    dst[n - 1] = 0;
                    if (strlen((char *)dst) != n - 1 || memchr(dst, 0, n) != dst + n - 1)
                        printf("strlen of %zu is wrong\n", n);
                    /* Only the sign is promised. */
                    int order = memcmp(src, dst, n);
                    sum = sum * 3 + (order > 0) - (order < 0);
                }
                checks++;
            }
    }
    printf("%u checks, %016lx\n", checks, sum);
    return 0;
}
