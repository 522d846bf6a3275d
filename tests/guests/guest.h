/* What the guests have in common: a serial port to speak, and work to do. No libc, 32 or 64 bits;
 * 64-bit division is left out because it needs a library in 32-bit code. */
#include <stdint.h>

enum { COM1 = 0x3f8 };

static inline void send(const char *text)
{
    for (; *text; text++)
        __asm__ volatile("outb %0, %1" : : "a"(*text), "Nd"((uint16_t)COM1));
}

static inline void send_number(uint32_t n)
{
    char text[11], *first = text + 10;
    *first = 0;
    do
        *--first = '0' + n % 10;
    while (n /= 10);
    send(first);
}

static inline void send_hex(uint32_t n)
{
    char text[11] = "0x";
    for (int digit = 0; digit < 8; digit++)
        text[2 + digit] = "0123456789abcdef"[n >> (28 - 4 * digit) & 15];
    text[10] = 0;
    send(text);
}

static inline void send_memory(uint32_t ranges, uint64_t ram)
{
    send("guest: memory map of ");
    send_number(ranges);
    send(" ranges, ");
    send_number(ram >> 10);
    send(" KiB of RAM\n");
}

static inline void send_module(const char *name, const uint8_t *bytes, uint32_t size)
{
    uint32_t sum = 0;
    for (uint32_t n = 0; n < size; n++)
        sum += bytes[n];
    send("guest: module '");
    send(name);
    send("' of ");
    send_number(size);
    send(" bytes, their sum is ");
    send_number(sum);
    send("\n");
}

/* The greatest common divisor of all numbers in `text`; 0 if there is none. */
static inline uint32_t work(const char *text)
{
    uint32_t divisor = 0;
    send("guest: the greatest common divisor of '");
    send(text);
    while (*text) {
        uint32_t n = 0;
        for (; '0' <= *text && *text <= '9'; text++)
            n = n * 10 + (*text - '0');
        while (n) {
            uint32_t rest = divisor % n;
            divisor = n;
            n = rest;
        }
        if (*text)
            text++;
    }
    send("' is ");
    send_number(divisor);
    send("\n");
    return divisor;
}
