/* The program whose sandbox is measured from its file on: nothing in it but the C library. */
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argv;
    return argc > 1 && write(1, "output\n", 7) != 7;
}
