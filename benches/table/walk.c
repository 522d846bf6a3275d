/* A loop of which every other instruction goes to memory: so many million rounds over 64 KiB. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t table[1 << 13];

int main(int argc, char **argv)
{
    unsigned long rounds = (argc > 1 ? strtoul(argv[1], 0, 10) : 1) * 1000000, at = 1;
    __asm__ volatile("1: mov (%2,%1,8), %%rax\n"
                     "   add %0, %%rax\n"
                     "   mov %%rax, (%2,%1,8)\n"
                     "   imul $25, %1, %1\n"
                     "   add 8(%2), %1\n"
                     "   and $8191, %1\n"
                     "   add %1, 16(%2)\n"
                     "   dec %0\n"
                     "   jnz 1b"
                     : "+r"(rounds), "+r"(at)
                     : "r"(table)
                     : "rax", "memory", "cc");
    uint64_t sum = 0;
    for (int i = 0; i < 1 << 13; i++)
        sum = sum * 31 + table[i];
    printf("%lx %lx\n", at, sum);
    return 0;
}
