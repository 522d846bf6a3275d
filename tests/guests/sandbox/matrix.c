/* A product of matrices of doubles, so often, twice unless told, and every bit of its result. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 160 };
static double a[N][N], b[N][N], c[N][N];

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 2;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = 1.0 / (i + j + 1);
            b[i][j] = (i - j) / 7.0;
        }
    for (int t = 0; t < times; t++)
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++)
                for (int j = 0; j < N; j++)
                    c[i][j] += a[i][k] * b[k][j];
    uint64_t sum = 0, word;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            memcpy(&word, &c[i][j], 8);
            sum = sum * 31 + word;
        }
    printf("%016lx %.17g\n", sum, c[N / 3][N / 2]);
    return 0;
}
