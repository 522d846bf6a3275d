/* A program whose functions are called, and which calls functions of its host. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vmm_guest.h>

static int64_t count;
static double doubles;

int64_t add(int64_t a, int64_t b) { return a + b; }
int64_t counted(void) { return ++count; }
void nothing(void) {}
double scale(double x, int64_t by, double and) { return x * by + and; }
float halve(float x) { return x / 2; }
_Bool is_even(unsigned n) { return n % 2 == 0; }
signed char narrow(int n) { return n; }
const char *greet(const char *who)
{
    static char text[100];
    snprintf(text, sizeof text, "hello, %s", who);
    return text;
}
/* Reverses bytes in place, with arithmetic in vector registers around it. */
size_t reverse(char *bytes, size_t length)
{
    doubles += length * 0.5;
    for (size_t i = 0; i < length / 2; i++) {
        char c = bytes[i];
        bytes[i] = bytes[length - 1 - i];
        bytes[length - 1 - i] = c;
    }
    return length;
}
int64_t many(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f, int64_t g, int64_t h)
{
    return a + 10 * (b + 10 * (c + 10 * (d + 10 * (e + 10 * (f + 10 * (g + 10 * h))))));
}
double total(void) { return doubles; }

/* Asks the host for the value of a key; the length, or what went wrong. */
int64_t ask(const char *key)
{
    char buffer[16];
    struct vmm_value argument = vmm_text(key);
    struct vmm_value result = vmm_bytes(buffer, sizeof buffer);
    long status = vmm_call("lookup", &argument, 1, &result);
    if (status != 0)
        return status;
    size_t length = result.length < sizeof buffer ? result.length : sizeof buffer;
    printf("%s is %.*s\n", key, (int)length, buffer);
    fflush(stdout);
    return result.length;
}
int64_t ask_sum(int64_t n)
{
    struct vmm_value arguments[] = {vmm_integer(n), vmm_float(0.5)};
    struct vmm_value result;
    long status = vmm_call("sum", arguments, 2, &result);
    return status != 0 ? status : (int64_t)(2 * vmm_as_float(result));
}
int64_t ask_wrongly(int64_t how)
{
    static char large[8 << 20] = {1};
    struct vmm_value argument = vmm_integer(1), many[16];
    switch (how) {
    case 0: return vmm_call("nobody", NULL, 0, NULL);
    case 1: return vmm_call("lookup", &argument, 1, NULL);
    case 2: return vmm_call((char *)1, NULL, 0, NULL);
    case 3: return vmm_call("lookup", (void *)8, 1, NULL);
    case 4: return vmm_call("lookup", &argument, 17, NULL);
    case 5: argument = vmm_bytes((void *)0x10000, -1); return vmm_call("lookup", &argument, 1, NULL);
    case 6: argument = vmm_text("\xff is not UTF-8"); return vmm_call("lookup", &argument, 1, NULL);
    /* Address space that was reserved is no memory. */
    case 7: argument = vmm_bytes(mmap(NULL, 1ul << 45, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1ul << 45);
            return vmm_call("lookup", &argument, 1, NULL);
    default: for (int i = 0; i < 16; i++)
                 many[i] = vmm_bytes(large, sizeof large);
             return vmm_call("lookup", many, 16, NULL);
    }
}
void *grab(size_t size) { return memset(malloc(size), 1, size); }
void spin(void) { for (;;) __asm__ volatile(""); }
void leave(int status) { exit(status); }
void crash(void) { *(volatile int *)16 = 1; }
void panic_host(void) { vmm_call("panics", NULL, 0, NULL); }
int again(void) { return vmm_ready() == -ENOSYS; }

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return 7;
    puts("about to be ready");
    fflush(stdout);
    vmm_ready();
    return 1;
}
