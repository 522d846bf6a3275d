/*
 * What C costs beside Rust, in pairs in one process: numbers PROGRAM, which is numbers/program.c.
 */

#define _POSIX_C_SOURCE 200809L

#include <time.h>

#include "../tests/check.h"
#include "../tests/testing.h"

enum { PAIRS = 1001, ACCESSES = 20000, CALLS = 200 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int32_t idle_read(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
{
    (void)user, (void)window, (void)offset, (void)data, (void)size;
    return VMM_FLOW_CONTINUE;
}

static int32_t idle_write(void *user, uint32_t window, uint64_t offset, const uint8_t *data, size_t size)
{
    (void)user, (void)window, (void)offset, (void)data, (void)size;
    return VMM_FLOW_CONTINUE;
}

/* Nanoseconds of an OUT to a device. */
static double access_time(bool in_c)
{
    static const vmm_device_ops ops = {.struct_size = sizeof ops, .read = idle_read, .write = idle_write};
    vmm_config *config = vmm_config_new();
    vmm_machine *machine;
    double start, took;
    vmm_config_set_backend(config, "script");
    vmm_config_set_memory(config, 1 << 20);
    vmm_config_set_interrupts(config, false);
    vmm_config_boot_real_mode(config, (const uint8_t *)"\xf4", 1);
    if (in_c) {
        vmm_device *device;
        WORKS(vmm_device_new("idle", &ops, NULL, &device, &error));
        WORKS(vmm_device_add_ports(device, 0x50, 1, &error));
        vmm_config_add_device(config, device);
        vmm_device_free(device);
    } else {
        vmm_testing_config_add_idle(config, 0x50);
    }
    WORKS(vmm_machine_new(config, &machine, &error));
    vmm_config_free(config);
    start = now();
    WORKS(vmm_machine_run(machine, NULL, &error));
    took = now() - start;
    vmm_machine_free(machine);
    return took / ACCESSES;
}

static vmm_sandbox *app;

/* Nanoseconds of a call of a function that does nothing. */
static double call_time(bool in_c)
{
    double start = now();
    int n;
    if (in_c) {
        for (n = 0; n < CALLS; n++) {
            vmm_value one = vmm_int64(1), result = vmm_int64(0);
            if (vmm_sandbox_call(app, "same", &one, 1, &result, NULL) != VMM_STATUS_OK || result.integer != 1)
                exit(1);
        }
    } else {
        WORKS(vmm_testing_calls(app, "same", CALLS, &error));
    }
    return (now() - start) / CALLS;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(double *times)
{
    qsort(times, PAIRS, sizeof *times, compare);
    return times[PAIRS / 2];
}

static void measure(const char *what, double (*time)(bool in_c))
{
    static double in_c[PAIRS], in_rust[PAIRS], more[PAIRS];
    double difference;
    int n;
    time(true), time(false);
    for (n = 0; n < PAIRS; n++) {
        in_c[n] = time(true);
        in_rust[n] = time(false);
        more[n] = in_c[n] - in_rust[n];
    }
    difference = median(more);
    printf("%-32s Rust %8.1f ns, C %8.1f ns, C more by %6.1f ns (medians of %d pairs)\n", what, median(in_rust),
           median(in_c), difference, PAIRS);
}

int main(int argc, char **argv)
{
    static vmm_testing_access script[ACCESSES + 1];
    vmm_sandbox_config *config;
    int n;
    CHECK(argc == 2);
    for (n = 0; n < ACCESSES; n++)
        script[n] = (vmm_testing_access){1, 1, 0x50, 7};
    script[n].what = 4;
    WORKS(vmm_testing_script(script, ACCESSES + 1, &error));
    measure("OUT to a device, hv::script", access_time);
    config = vmm_sandbox_config_program(argv[1]);
    WORKS(vmm_sandbox_new(config, &app, &error));
    vmm_sandbox_config_free(config);
    WORKS(vmm_sandbox_start(app, NULL, &error));
    measure("call of a sandbox", call_time);
    vmm_sandbox_free(app);
    return 0;
}
