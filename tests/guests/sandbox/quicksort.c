/* Sorts numbers by qsort of the library and by a quicksort of its own. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 200000 };

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void sort(int64_t *from, int64_t *to)
{
    while (to - from > 1) {
        int64_t pivot = from[(to - from) / 2], *low = from, *high = to - 1;
        while (low <= high) {
            while (*low < pivot)
                low++;
            while (*high > pivot)
                high--;
            if (low <= high) {
                int64_t kept = *low;
                *low++ = *high;
                *high-- = kept;
            }
        }
        sort(from, high + 1);
        from = low;
    }
}

int main(void)
{
    int64_t *a = malloc(COUNT * 8), *b = malloc(COUNT * 8);
    uint64_t x = 88172645463325252u, sum = 0;
    for (int i = 0; i < COUNT; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        a[i] = x;
    }
    memcpy(b, a, COUNT * 8);
    sort(a, a + COUNT);
    qsort(b, COUNT, 8, compare);
    for (int i = 0; i < COUNT; i++)
        sum = sum * 31 + a[i];
    printf("%s %016lx\n", memcmp(a, b, COUNT * 8) ? "different" : "same", sum);
    return 0;
}
