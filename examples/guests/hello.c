/* The guest of the example hello: no libc, no kernel, only a serial port.
 *
 * It reads a number, follows its Collatz sequence (halve if even, else triple and add 1) to 1, and
 * answers with how long that took and how high it went. */

enum { COM1 = 0x3f8, LINE_STATUS = COM1 + 5, DATA_READY = 1 };

static unsigned char inb(unsigned short port)
{
    unsigned char value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void outb(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static char receive(void)
{
    while (!(inb(LINE_STATUS) & DATA_READY))
        ;
    return inb(COM1);
}

/* Without a look at the line status first: this serial port can always send. */
static void send(const char *text)
{
    while (*text)
        outb(COM1, *text++);
}

static void send_number(unsigned long n)
{
    char text[21], *first = text + 20;
    *first = 0;
    do
        *--first = '0' + n % 10;
    while (n /= 10);
    send(first);
}

/* Reads digits up to the first character that is none; 0 if there is none. */
static unsigned long receive_number(void)
{
    unsigned long n = 0;
    for (char c = receive(); '0' <= c && c <= '9'; c = receive())
        n = n * 10 + (c - '0');
    return n;
}

int main(void)
{
    unsigned long start = receive_number(), peak = start, steps = 0;
    if (start == 0) {
        send("guest: that is not a number\n");
        return 1;
    }
    for (unsigned long n = start; n != 1; steps++) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        if (n > peak)
            peak = n;
    }
    send("guest: hello! ");
    send_number(start);
    send(" takes ");
    send_number(steps);
    send(" steps to 1 and peaks at ");
    send_number(peak);
    send("\n");
    return 0;
}
