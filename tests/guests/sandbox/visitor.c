/* A program for tests of the example sandbox: does what its first argument says. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

/* Standard input, or a file, to standard output. */
static int show(const char *path)
{
    FILE *file = path ? fopen(path, "r") : stdin;
    int c;

    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    while ((c = getc(file)) != EOF)
        putchar(c);
    return 0;
}

static int save(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    if (!file || fputs(text, file) < 0 || fclose(file)) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    const char *one = argc > 2 ? argv[2] : NULL;

    if (!strcmp(what, "abort"))
        abort();
    if (!strcmp(what, "crash"))
        *(volatile int *)8 = 1;
    if (!strcmp(what, "divide"))
        __asm__ volatile("divl %%ecx" ::"a"(1), "c"(0), "d"(0));
    if (!strcmp(what, "trap"))
        __asm__ volatile("int3");
    if (!strcmp(what, "undefined"))
        __asm__ volatile("ud2");
    if (!strcmp(what, "exit"))
        return one ? atoi(one) : 0;
    if (!strcmp(what, "loop")) {
        puts("looping");
        fflush(stdout);
        for (;;)
            __asm__ volatile("");
    }
    if (!strcmp(what, "missing"))
        return fork() != -1;
    if (!strcmp(what, "save") && argc > 3)
        return save(one, argv[3]);
    if (!strcmp(what, "show"))
        return show(one);
    for (int i = 1; i < argc; i++)
        printf("argument %s\n", argv[i]);
    for (char **variable = environ; *variable; variable++)
        printf("variable %s\n", *variable);
    return 0;
}
