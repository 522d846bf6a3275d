/* What a program could do if it got into ring 0; the host's test takes it there. Nothing here returns. */
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <vmm_guest.h>

#define CODE ((volatile uint8_t *)0x7fffffff0000)
#define DATA ((volatile uint8_t *)0x7fffffff1000)
/* Page tables, by the entry of the root that points to the root. */
#define TABLES 0x7f0000000000UL
#define ROOT ((volatile uint64_t *)(TABLES + (254UL << 30) + (254UL << 21) + (254UL << 12)))
#define ENTRY(address) ((volatile uint64_t *)(TABLES + ((address) >> 12) * 8))

static char window[3 * 4096] __attribute__((aligned(4096)));

int64_t answer(int64_t n) { return 2 * n; }

static void spin(void)
{
    for (;;)
        __asm__ volatile("");
}

static void out(uint16_t port)
{
    __asm__ volatile("outb %%al, %%dx" ::"a"(0), "d"(port));
}

/* The host takes this for a system call. */
static void call(long number, long a, long b)
{
    __asm__ volatile("outb %%al, $0x60" ::"a"(number), "D"(a), "S"(b), "d"(0) : "memory");
}

static void writable_code(void)
{
    uint64_t cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 & ~0x10000UL));
}

/* The page after window's first shows another physical address. */
static volatile uint64_t *elsewhere(uint64_t physical)
{
    uintptr_t page = ((uintptr_t)window + 4095) & ~4095UL;
    *ENTRY(page) = physical | 3;
    __asm__ volatile("invlpg (%0)" ::"r"(page) : "memory");
    return (volatile uint64_t *)page;
}

void attack(long which)
{
    static const struct { uint16_t limit; uint64_t base; } __attribute__((packed)) nothing = { 0, 0 };

    switch (which) {
    case 0: /* Handlers, gates, segments, the stack. */
        for (int i = 0; i < 4096; i++)
            DATA[i] = 0;
        __asm__ volatile("ud2");
        break;
    case 1:
        for (int i = 0; i < 4096; i++)
            DATA[i] = 0xff;
        call(SYS_getpid, 0, 0);
        break;
    case 2: /* The stub. */
        writable_code();
        for (int i = 0; i < 4096; i++)
            CODE[i] = 0xf4;
        call(SYS_getpid, 0, 0);
        break;
    case 3: /* The stub answers the host's wish for other page tables by a loop. */
        writable_code();
        for (int i = 0; i < 4094; i++)
            CODE[i] = 0x90;
        CODE[4094] = 0xeb;
        CODE[4095] = 0xfe;
        call(SYS_munmap, ((long)window + 4095) & ~4095L, 4096);
        break;
    case 4: /* No page tables. */
        for (int i = 0; i < 512; i++)
            ROOT[i] = 0;
        __asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
        break;
    case 5:
        __asm__ volatile("mov %0, %%cr3" ::"r"(1UL << 40) : "memory");
        break;
    case 6:
        __asm__ volatile("lidt %0; ud2" ::"m"(nothing));
        break;
    case 7:
        __asm__ volatile("hlt");
        break;
    case 8:
        __asm__ volatile("cli");
        break;
    case 9: /* Ports, those of the stub too. */
        for (;;)
            for (int port = 0; port < 0x10000; port++)
                if (port != 0x60 && (port < 0x40 || port >= 0x60))
                    out(port);
        break;
    case 10:
        out(0x4d);
        break;
    case 11: { /* What is no RAM, and memory of the host if addresses were the host's. */
        volatile uint64_t *there = elsewhere(0xfee00000);
        for (;;)
            *there = *there + 1;
    }
    case 12:
        for (uint64_t physical = 1UL << 20; physical < 1UL << 46; physical *= 2)
            *elsewhere(physical) = 1;
        break;
    case 13: /* Calls with what no program passes. */
        call(SYS_exit_group, 7, 0);
        break;
    case 14:
        call(-1, -1, -1);
        break;
    }
    spin();
}

/* What a page of its own holds. */
int64_t look(void) { return *(volatile int64_t *)(((uintptr_t)window + 4095) & ~4095UL); }

static void set_msr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

/* Leaves behind what the next program in this VM must not find, and ends. */
void infect(long which)
{
    static const uint32_t msrs[] = { 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000102, 0xc0000103, 0x174, 0x175, 0x176 };

    switch (which) {
    case 0:
        for (unsigned i = 0; i < sizeof msrs / sizeof *msrs; i++)
            set_msr(msrs[i], 0x1234);
        break;
    case 1:
        __asm__ volatile("mov %0, %%dr0; mov %0, %%dr3; mov %0, %%cr2" ::"r"((uint64_t)window));
        __asm__ volatile("mov %0, %%dr7" ::"r"(0x4ffUL));
        break;
    case 2: /* Its own pages show others, and ring 3 may write the tables; the TLB has it all. */
        writable_code();
        for (int i = 0; i < 512; i++)
            if (ROOT[i] & 1)
                ROOT[i] |= 4;
        for (uint64_t frame = 0; frame < 64; frame++)
            *elsewhere(frame << 12) += 1;
        look();
        break;
    case 3:
        for (int i = 0; i < 2048; i++)
            DATA[i] = 0;
        break;
    case 4:
        __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" ::"r"(0x18));
        writable_code();
        break;
    case 5:
        __asm__ volatile("pcmpeqd %xmm0, %xmm0; movaps %xmm0, %xmm7; movaps %xmm0, %xmm15");
        break;
    }
    call(SYS_exit_group, 7, 0);
    spin();
}

int main(void)
{
    *(volatile int64_t *)(((uintptr_t)window + 4095) & ~4095UL) = 42;
    vmm_ready();
    return 1;
}
