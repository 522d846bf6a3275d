/* A unikernel entered as boot::Elf64 documents it: long mode, like a C function that must not
 * return. */
#include "../guest.h"

struct range {
    uint64_t start, len, kind;
};

enum { RAM = 1 };

__attribute__((noreturn))
void entry(const char *cmdline, const struct range *map, uint64_t ranges)
{
    uint16_t code_segment;
    __asm__("mov %%cs, %0" : "=r"(code_segment));
    send("guest: entered at ring ");
    send_number(code_segment & 3);
    send(" with ");
    send_number(sizeof(void *) * 8);
    send(" bits, by a plain ELF\n");

    uint64_t ram = 0;
    for (uint64_t n = 0; n < ranges; n++)
        if (map[n].kind == RAM)
            ram += map[n].len;
    send_memory(ranges, ram);
    uint32_t code = work(cmdline);
    for (;;)
        __asm__ volatile("outl %0, %1" : : "a"(code), "Nd"((uint16_t)0xf4));
}
