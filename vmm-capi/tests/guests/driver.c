/*
 * A guest without a kernel that drives one virtio device over MMIO, by its command line: `echo`, `disk`,
 * `broken` or `console`. It ends itself with 0, or with the number of what went wrong.
 */

#include <stdint.h>

enum {
    MAGIC = 0x000, DEVICE_ID = 0x008, FEATURES_SELECT = 0x014, ACCEPTED = 0x020, ACCEPTED_SELECT = 0x024,
    QUEUE = 0x030, QUEUE_MAX = 0x034, QUEUE_SIZE = 0x038, QUEUE_READY = 0x044, NOTIFY = 0x050, STATUS = 0x070,
    DESCRIPTORS = 0x080, AVAILABLE = 0x090, USED = 0x0a0, CONFIG = 0x100,
    SIZE = 4, SECTOR = 512,
};

/* Where the board puts the first device. */
static volatile uint8_t *const device = (uint8_t *)0xd0000000;

static struct { uint64_t at; uint32_t size; uint16_t flags, next; } descriptors[SIZE] __attribute__((aligned(16)));
static volatile struct { uint16_t flags, index, ring[SIZE]; } available __attribute__((aligned(2)));
static volatile struct { uint16_t flags, index; struct { uint32_t id, size; } ring[SIZE]; } used __attribute__((aligned(4)));

static uint32_t get(uint32_t at)
{
    return *(volatile uint32_t *)(device + at);
}

static void set(uint32_t at, uint32_t value)
{
    *(volatile uint32_t *)(device + at) = value;
}

static void point(uint32_t at, const volatile void *to)
{
    set(at, (uint32_t)(uintptr_t)to);
    set(at + 4, 0);
}

__attribute__((noreturn)) static void end(uint8_t code)
{
    for (;;)
        __asm__ volatile("outb %0, %1" : : "a"(code), "Nd"((uint16_t)0xf4));
}

static void check(int is, uint8_t code)
{
    if (!is)
        end(code);
}

static uint32_t queue;

static void begin(uint32_t id, uint32_t number)
{
    queue = number;
    available.index = used.index = 0;
    check(get(MAGIC) == 0x74726976, 1);
    check(get(DEVICE_ID) == id, 2);
    set(STATUS, 0);
    set(STATUS, 3); /* acknowledged, and there is a driver */
    set(ACCEPTED_SELECT, 1);
    set(ACCEPTED, 1); /* VIRTIO_F_VERSION_1 */
    set(ACCEPTED_SELECT, 0);
    set(ACCEPTED, id == 3 ? 1 : 0); /* a console's size */
    set(STATUS, 11);
    check(get(STATUS) == 11, 3);
    set(QUEUE, queue);
    check(get(QUEUE_MAX) >= SIZE, 4);
    set(QUEUE_SIZE, SIZE);
    point(DESCRIPTORS, descriptors);
    point(AVAILABLE, &available);
    point(USED, &used);
    set(QUEUE_READY, 1);
    set(STATUS, 15);
}

struct buffer { volatile void *at; uint32_t size; int written; };

/* Lends these buffers, waits until they are back; gives how many bytes were written. */
static uint32_t lend(const struct buffer *buffers, uint16_t count)
{
    uint16_t n, index = available.index;
    for (n = 0; n < count; n++) {
        descriptors[n].at = (uintptr_t)buffers[n].at;
        descriptors[n].size = buffers[n].size;
        descriptors[n].flags = (n + 1 < count ? 1 : 0) | (buffers[n].written ? 2 : 0);
        descriptors[n].next = n + 1;
    }
    available.ring[index % SIZE] = 0;
    __asm__ volatile("mfence" : : : "memory");
    available.index = index + 1;
    __asm__ volatile("mfence" : : : "memory");
    set(NOTIFY, queue);
    while (used.index == index)
        __asm__ volatile("pause" : : : "memory");
    return used.ring[index % SIZE].size;
}

static void echo(void)
{
    static volatile uint8_t question[5] = "hello", answer[16];
    struct buffer buffers[] = {{question, 5, 0}, {answer, sizeof answer, 1}};
    int n;
    begin(42, 0);
    check(get(CONFIG) == 0x11223344, 10);
    set(CONFIG + 4, 7);
    check(lend(buffers, 2) == 5, 11);
    for (n = 0; n < 5; n++)
        check(answer[n] == question[4 - n], 12);
}

static volatile uint8_t sector[SECTOR];

static uint8_t request(uint32_t type, uint64_t at, int written)
{
    static volatile struct { uint32_t type, zero; uint64_t at; } header;
    static volatile uint8_t status;
    struct buffer buffers[] = {{&header, 16, 0}, {sector, SECTOR, written}, {&status, 1, 1}};
    header.type = type;
    header.at = at;
    status = 0xff;
    if (type == 4) /* a flush has no data */
        buffers[1] = buffers[2];
    lend(buffers, type == 4 ? 2 : 3);
    return status;
}

static void disk(int broken)
{
    int n;
    begin(2, 0);
    check(get(CONFIG) == 16, 20);
    for (n = 0; n < SECTOR; n++)
        sector[n] = (uint8_t)(n * 7);
    check(request(1, 3, 0) == broken, 21);
    check(request(4, 0, 0) == broken, 22);
    for (n = 0; n < SECTOR; n++)
        sector[n] = 0;
    check(request(0, 3, 1) == broken, 23);
    for (n = 0; n < SECTOR && !broken; n++)
        check(sector[n] == (uint8_t)(n * 7), 24);
    check(request(0, 16, 1) == 1, 25); /* behind its end */
}

static void console(void)
{
    static volatile uint8_t said[6] = "hello\n", heard[16];
    struct buffer out = {said, 6, 0}, in = {heard, sizeof heard, 1};
    int n;
    begin(3, 1);
    check(get(CONFIG) == (80 | 25 << 16), 30);
    check(lend(&out, 1) == 0, 31);
    begin(3, 0);
    check(lend(&in, 1) == 5, 32);
    for (n = 0; n < 5; n++)
        check(heard[n] == (uint8_t)"input"[n], 33);
}

__attribute__((noreturn)) void entry(const char *cmdline)
{
    switch (cmdline[0]) {
    case 'e': echo(); break;
    case 'd': disk(0); break;
    case 'b': disk(1); break;
    case 'c': console(); break;
    default: end(99);
    }
    end(0);
}
