/* A program that computes for a while, in memory that comes and goes, and says what came out. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SIZE = 1 << 18 };

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    uint64_t h = 1469598103934665603u;
    double sum = 0;
    for (int round = 0; round < rounds; round++) {
        size_t size = SIZE + h % 65536;
        unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        unsigned char *copy = malloc(size);
        if (memory == MAP_FAILED || copy == NULL)
            return 1;
        for (size_t i = 0; i < size; i++)
            memory[i] = (unsigned char)(h = h * 6364136223846793005u + 1442695040888963407u) ^ memory[i];
        memcpy(copy, memory, size);
        for (size_t i = 0; i < size; i += 3)
            h = (h ^ copy[i]) * 1099511628211u;
        for (int i = 1; i < 2000; i++)
            sum += (double)(h % 1000 + 1) / i;
        munmap(memory, size);
        free(copy);
    }
    printf("%016llx %.6f\n", (unsigned long long)h, sum);
    return 0;
}
