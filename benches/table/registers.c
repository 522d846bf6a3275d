/* A loop that stays in registers, of so many million rounds of 5 instructions. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    unsigned long rounds = (argc > 1 ? strtoul(argv[1], 0, 10) : 1) * 1000000, a = 0, b = 1, c = 0;
    __asm__ volatile("1: add %3, %0\n"
                     "   xor %0, %1\n"
                     "   lea (%1,%3,2), %2\n"
                     "   sub $1, %3\n"
                     "   jnz 1b"
                     : "+r"(a), "+r"(b), "+r"(c), "+r"(rounds));
    printf("%lx %lx %lx\n", a, b, c);
    return 0;
}
