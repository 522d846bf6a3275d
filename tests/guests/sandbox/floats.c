/* Prints 10,000 doubles in several ways, as long doubles too, and reads them back. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < 10000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        double value, back;
        memcpy(&value, &x, 8);
        /* Every other one of a size that people print. */
        if (i % 2)
            value = (double)(int64_t)x / (1 << 30) / 1000;
        char text[64];
        snprintf(text, sizeof text, "%.17g", value);
        back = strtod(text, 0);
        long double wide = strtold(text, 0) * 3 / 7;
        printf("%.18Lg %La %Lf ", wide, wide, fmodl(wide, 1000));
        printf("%g %.3e %s %d %.2f\n", value, value, text, back == value, fmod(value, 1000));
    }
    return 0;
}
