/* The guest of the example hostcall: an ordinary C program, built with `cc -static`.
 *
 * It scores a text by its words. What a word is worth only the host knows. */

#include <stdio.h>
#include <string.h>
#include <vmm_guest.h>

static int64_t points(const char *word)
{
    struct vmm_value argument = vmm_text(word), result;
    if (vmm_call("points", &argument, 1, &result) != 0)
        return 0;
    return (int64_t)result.word;
}

/* Called by the host. */
int64_t score(const char *text)
{
    char copy[256];
    int64_t total = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        total += points(word);
    return total;
}

int main(void)
{
    vmm_ready();
    fputs("this program wants to run in a sandbox\n", stderr);
    return 1;
}
