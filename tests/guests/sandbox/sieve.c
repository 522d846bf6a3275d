/* Counts primes below 4 million with a sieve of bits. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { LIMIT = 4000000 };

int main(void)
{
    uint64_t *composite = calloc(LIMIT / 64 + 1, 8);
    unsigned count = 0, last = 0;
    for (uint64_t n = 2; n < LIMIT; n++) {
        if (composite[n / 64] >> n % 64 & 1)
            continue;
        count++;
        last = n;
        for (uint64_t m = n * n; m < LIMIT; m += n)
            composite[m / 64] |= 1ull << m % 64;
    }
    printf("%u primes, the last is %u\n", count, last);
    return 0;
}
