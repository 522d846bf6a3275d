/* The guest of the example fork: it prepares something that takes a while, once, and then answers. */
#include <vmm_guest.h>

enum { LIMIT = 4000000 };
static unsigned char composite[LIMIT];

/* Whether a number is prime: looked up. */
_Bool is_prime(uint64_t n) { return n >= 2 && n < LIMIT && !composite[n]; }

/* What tells this sandbox from all others, as far as it fits. */
uint64_t identity(void)
{
    uint64_t word = 0;
    for (int i = 0; i < 8; i++)
        word |= (uint64_t)vmm_identity[i] << (8 * i);
    return word;
}

int main(void)
{
    for (uint64_t n = 2; n * n < LIMIT; n++)
        for (uint64_t m = n * n; !composite[n] && m < LIMIT; m += n)
            composite[m] = 1;
    vmm_ready();
    return 1;
}
