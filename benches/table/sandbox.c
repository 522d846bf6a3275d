/* What calls are measured with. */
#include <sys/syscall.h>
#include <unistd.h>
#include <vmm_guest.h>

void nothing(void) {}

void host(void)
{
    vmm_call("nothing", 0, 0, 0);
}

void call_kernel(long times)
{
    while (times-- > 0)
        syscall(SYS_getppid);
}

/* A loop of registers only; the result is used, so it is not left out. */
long compute(long rounds)
{
    unsigned long state = 1;
    while (rounds-- > 0) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    return (long)state;
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return 0;
    vmm_ready();
    return 1;
}
