/* Programs that take more than they may; the first argument says of what. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const long aligned[2];
static const float zero;
/* No exception is masked, in MXCSR and in the x87's control word. */
static const int mxcsr, control_word = 0x340;

static void recurse(volatile int *depth)
{
    volatile char frame[4096];
    frame[0] = 1;
    ++*depth;
    recurse(depth);
    frame[1] = frame[0];
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "spin"))
        for (;;)
            __asm__ volatile("");
    if (!strcmp(what, "call"))
        for (;;)
            getppid();
    if (!strcmp(what, "edit")) {
        for (;;) {
            char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            page[0] = 1;
            munmap(page, 8192);
        }
    }
    if (!strcmp(what, "write"))
        for (;;)
            puts("more and more and more");
    /* More than a pipe holds, in one call. */
    if (!strcmp(what, "fill")) {
        static char much[300000] = "*";
        size_t done = 0;
        for (long count; done < sizeof much; done += count)
            if ((count = write(1, much + done, sizeof much - done)) < 0)
                return errno;
        return 0;
    }
    if (!strcmp(what, "read")) {
        char c;
        return read(0, &c, 1) == 1 ? c : 100;
    }
    if (!strcmp(what, "memory")) {
        size_t total = 0;
        for (void *p; (p = malloc(1 << 16)) != NULL; total += 1 << 16)
            memset(p, 1, 1 << 16);
        printf("%zu\n", total >> 20);
        return 0;
    }
    if (!strcmp(what, "stack")) {
        volatile int depth = 0;
        recurse(&depth);
    }
    if (!strcmp(what, "null"))
        return *(volatile int *)0;
    if (!strcmp(what, "code"))
        *(volatile char *)main = 1;
    if (!strcmp(what, "data"))
        ((void (*)(void))what)();
    if (!strcmp(what, "stub"))
        *(volatile char *)0x7fffffff0000 = 1;
    if (!strcmp(what, "ring0"))
        return *(volatile char *)0x7fffffff1000;
    if (!strcmp(what, "tables"))
        return *(volatile char *)0x7f0000000000;
    if (!strcmp(what, "halt"))
        __asm__ volatile("hlt");
    if (!strcmp(what, "port"))
        __asm__ volatile("outb %%al, $0x60" ::"a"(0));
    if (!strcmp(what, "undefined"))
        __asm__ volatile("ud2");
    if (!strcmp(what, "breakpoint"))
        __asm__ volatile("int3");
    if (!strcmp(what, "interrupt"))
        __asm__ volatile("int $0x80");
    if (!strcmp(what, "divide"))
        __asm__ volatile("divl %%ecx" ::"a"(1), "c"(0), "d"(0));
    if (!strcmp(what, "step"))
        __asm__ volatile("pushfq; orl $0x100, (%rsp); popfq; nop; nop");
    if (!strcmp(what, "unaligned"))
        __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%0), %%eax" ::"r"(aligned) : "rax");
    if (!strcmp(what, "vectors"))
        __asm__ volatile("ldmxcsr %0; divss %1, %%xmm0" ::"m"(mxcsr), "m"(zero) : "xmm0");
    if (!strcmp(what, "x87"))
        __asm__ volatile("fldcw %0; fld1; fdivs %1; fwait" ::"m"(control_word), "m"(zero));
    if (!strcmp(what, "address"))
        return *(volatile char *)(1UL << 63);
    if (!strcmp(what, "push"))
        __asm__ volatile("mov %0, %%rsp; push %%rax" ::"r"(1UL << 63));
    if (!strcmp(what, "enter"))
        ((void (*)(void))0x7fffffff0060)();
    if (!strcmp(what, "abort"))
        abort();
    return 1;
}
