/*
 * A device of the caller's own that interrupts its guest: a timer at an I/O port. The guest writes in how many
 * milliseconds it wants to be woken, sleeps, and does so three times.
 *
 *   cc -std=c99 examples/device.c $(pkg-config --cflags --libs vmm) -lpthread -o device && ./device
 */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <vmm.h>

static const unsigned char guest[] = {
    /* The handler of interrupt 0x40 in a table of interrupts at 0x20000. */
    0x48, 0x8d, 0x05, 0x4e, 0, 0, 0,          /* lea rax, [rip + handler] */
    0xbf, 0x00, 0x04, 0x02, 0,                /* mov edi, 0x20400 */
    0x66, 0x89, 0x07,                         /* mov [rdi], ax */
    0x8c, 0x4f, 0x02,                         /* mov [rdi + 2], cs */
    0x66, 0xc7, 0x47, 0x04, 0x00, 0x8e,       /* mov word [rdi + 4], 0x8e00: an interrupt gate */
    0xc1, 0xe8, 0x10,                         /* shr eax, 16 */
    0x66, 0x89, 0x47, 0x06,                   /* mov [rdi + 6], ax */
    0x0f, 0x01, 0x1d, 0x3e, 0, 0, 0,          /* lidt [rip + table] */
    /* The local APIC on; line 16, the first that devices are given, comes as 0x40. */
    0xb8, 0xf0, 0x00, 0xe0, 0xfe,             /* mov eax, 0xfee000f0 */
    0xc7, 0x00, 0xff, 0x01, 0, 0,             /* mov dword [rax], 0x1ff */
    0xba, 0x00, 0x00, 0xc0, 0xfe,             /* mov edx, 0xfec00000 */
    0xc7, 0x02, 0x30, 0, 0, 0,                /* mov dword [rdx], 0x30 */
    0xc7, 0x42, 0x10, 0x40, 0, 0, 0,          /* mov dword [rdx + 0x10], 0x40 */
    0x31, 0xdb,                               /* xor ebx, ebx */
    0xb0, 0x14,                               /* again: mov al, 20 */
    0xe6, 0x50,                               /* out 0x50, al: wake me in 20 ms */
    0xfb,                                     /* sti */
    0xf4,                                     /* hlt */
    0xfa,                                     /* cli */
    0x80, 0xfb, 0x03,                         /* cmp bl, 3 */
    0x75, 0xf4,                               /* jne again */
    0x88, 0xd8,                               /* mov al, bl */
    0xe6, 0xf4,                               /* out 0xf4, al: the end, with this code */
    0xff, 0xc3,                               /* handler: inc ebx */
    0xb9, 0xb0, 0x00, 0xe0, 0xfe,             /* mov ecx, 0xfee000b0: the end of an interrupt */
    0xc7, 0x01, 0, 0, 0, 0,                   /* mov dword [rcx], 0 */
    0x48, 0xcf,                               /* iretq */
    0x0f, 0x04, 0, 0, 0x02, 0, 0, 0, 0, 0,    /* table: its limit, and where it is */
};

struct timer {
    vmm_device *device;
    pthread_t thread;
    int is_running, ticks;
    unsigned char ms;
};

/* Waits on a thread of its own: what the library calls must not. */
static void *timer_wait(void *user)
{
    struct timer *timer = user;
    struct timespec time = {0, 0};
    time.tv_nsec = timer->ms * 1000000L;
    nanosleep(&time, NULL);
    timer->ticks++;
    vmm_device_interrupt(timer->device, NULL);
    return NULL;
}

static void timer_join(struct timer *timer)
{
    if (timer->is_running)
        pthread_join(timer->thread, NULL);
    timer->is_running = 0;
}

/* Called on the thread that runs the guest. */
static int32_t timer_write(void *user, uint32_t window, uint64_t offset, const uint8_t *data, size_t size)
{
    struct timer *timer = user;
    (void)window, (void)offset, (void)size;
    timer_join(timer);
    timer->ms = data[0];
    timer->is_running = pthread_create(&timer->thread, NULL, timer_wait, timer) == 0;
    return timer->is_running ? VMM_FLOW_CONTINUE : VMM_FLOW_FAIL;
}

static const vmm_device_ops timer_ops = {.struct_size = sizeof timer_ops, .write = timer_write};

static int fail(vmm_error *error)
{
    fprintf(stderr, "device: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 1;
}

int main(void)
{
    struct timer timer = {0};
    vmm_error *error;
    vmm_config *config;
    vmm_machine *machine = NULL;
    vmm_outcome outcome;
    vmm_status status;

    status = vmm_device_new("timer", &timer_ops, &timer, &timer.device, &error);
    if (status == VMM_STATUS_OK)
        status = vmm_device_add_ports(timer.device, 0x50, 1, &error);
    if (status == VMM_STATUS_OK)
        status = vmm_device_add_irq(timer.device, &error);
    if (status == VMM_STATUS_OK) {
        config = vmm_config_new();
        vmm_config_set_memory(config, 1 << 20);
        vmm_config_boot_long_mode(config, guest, sizeof guest);
        vmm_config_add_device(config, timer.device);
        vmm_config_add_debug_exit(config);
        status = vmm_machine_new(config, &machine, &error);
        vmm_config_free(config);
    }
    if (status == VMM_STATUS_OK)
        do
            status = vmm_machine_run(machine, &outcome, &error);
        while (status == VMM_STATUS_INTERRUPTED && (vmm_error_free(error), 1));
    timer_join(&timer);
    vmm_machine_free(machine);
    vmm_device_free(timer.device);
    if (status != VMM_STATUS_OK)
        return fail(error);
    printf("%d ticks; the guest %s\n", timer.ticks, outcome.text);
    return 0;
}
