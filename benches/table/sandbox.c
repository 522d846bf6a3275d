/* What calls are measured with. */
#include <sys/syscall.h>
#include <unistd.h>
#include <vmm_guest.h>

static char pages[8192][4096];

void nothing(void) {}

/* Writes a word of each of so many pages. */
void touch(long count)
{
    for (long n = 0; n < count; n++)
        ++*(volatile long *)pages[n];
}

void host(void)
{
    vmm_call("nothing", 0, 0, 0);
}

void call_kernel(long times)
{
    while (times-- > 0)
        syscall(SYS_getppid);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return 0;
    vmm_ready();
    return 1;
}
