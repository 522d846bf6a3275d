/* What is called. */

#include <vmm_guest.h>

long same(long x)
{
    return x;
}

int main(void)
{
    return (int)vmm_ready();
}
