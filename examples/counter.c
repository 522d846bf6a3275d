/*
 * A device of the caller's own: a counter at an I/O port, which a guest reads until it is 5.
 *
 *   cc -std=c99 examples/counter.c $(pkg-config --cflags --libs vmm) -o counter && ./counter
 */

#include <stdio.h>
#include <vmm.h>

static const unsigned char guest[] =
    "\xe4\x50" /* again: in al, 0x50: the counter */
    "\x3c\x05" /* cmp al, 5 */
    "\x75\xfa" /* jne again */
    "\xe6\x50" /* out 0x50, al: the end */
    "\xf4";    /* hlt */

struct counter {
    unsigned char value;
};

static int32_t counter_read(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
{
    struct counter *counter = user;
    (void)window, (void)offset, (void)size;
    data[0] = counter->value++;
    return VMM_FLOW_CONTINUE;
}

static int32_t counter_write(void *user, uint32_t window, uint64_t offset, const uint8_t *data, size_t size)
{
    (void)user, (void)window, (void)offset, (void)size;
    return VMM_FLOW_POWER_OFF + data[0];
}

static const vmm_device_ops counter_ops = {
    .struct_size = sizeof counter_ops, .read = counter_read, .write = counter_write,
};

static int fail(vmm_error *error)
{
    fprintf(stderr, "counter: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 1;
}

int main(void)
{
    struct counter counter = {0};
    vmm_error *error;
    vmm_device *device;
    vmm_machine *machine = NULL;
    vmm_outcome outcome;
    vmm_status status;

    status = vmm_device_new("counter", &counter_ops, &counter, &device, &error);
    if (status != VMM_STATUS_OK)
        return fail(error);
    status = vmm_device_add_ports(device, 0x50, 1, &error);
    if (status == VMM_STATUS_OK) {
        vmm_config *config = vmm_config_new();
        vmm_config_set_memory(config, 1 << 20);
        vmm_config_set_interrupts(config, false);
        vmm_config_boot_long_mode(config, guest, sizeof guest - 1);
        vmm_config_add_device(config, device);
        status = vmm_machine_new(config, &machine, &error);
        vmm_config_free(config);
    }
    vmm_device_free(device);
    if (status == VMM_STATUS_OK)
        status = vmm_machine_run(machine, &outcome, &error);
    vmm_machine_free(machine);
    if (status != VMM_STATUS_OK)
        return fail(error);
    printf("%s; the counter is at %d\n", outcome.text, counter.value);
    return 0;
}
