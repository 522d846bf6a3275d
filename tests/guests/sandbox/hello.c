/* Says hello to its arguments; exits with their number. */
#include <stdio.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("hello, %s!\n", argv[i]);
    fprintf(stderr, "%d said\n", argc - 1);
    return argc - 1;
}
