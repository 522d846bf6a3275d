/* The guest of the example serve: it answers one request, and would remember it if it were let. */
#include <stdio.h>
#include <string.h>
#include <vmm_guest.h>

enum { LIMIT = 1000000 };
static unsigned char composite[LIMIT];
static char remembered[4096];
static char answer[8192];
static unsigned requests;

/* The answer to a request of a path with a body, as text. */
const char *respond(const char *path, const char *body)
{
    unsigned long number = 0;
    if (strcmp(path, "/crash") == 0)
        *(volatile char *)8 = 1;
    while (strcmp(path, "/loop") == 0)
        ;
    requests++;
    if (sscanf(path, "/prime/%lu", &number) == 1 && number < LIMIT)
        snprintf(answer, sizeof answer, "%lu is %s\n", number, number > 1 && !composite[number] ? "prime" : "not prime");
    else
        snprintf(answer, sizeof answer, "request %u, before it somebody said '%s'\n", requests, remembered);
    snprintf(remembered, sizeof remembered, "%s", body);
    return answer;
}

/* What takes a while is done once; every request finds it done. */
int main(void)
{
    for (unsigned long n = 2; n * n < LIMIT; n++)
        for (unsigned long m = n * n; !composite[n] && m < LIMIT; m += n)
            composite[m] = 1;
    vmm_ready();
    return 1;
}
