/*
 * A guest that says hello: the smallest complete use of the library from C.
 *
 *   cc -std=c99 examples/hello.c $(pkg-config --cflags --libs vmm) -o hello && ./hello
 *
 * The guest is a few instructions in 64-bit mode, without a kernel. It writes to the serial port, which
 * is standard output here, and ends itself with a code, which becomes the exit status.
 */

#include <stdio.h>
#include <vmm.h>

static const unsigned char guest[] =
    "\x48\x8d\x35\x0f\x00\x00\x00" /* lea rsi, [rip + text] */
    "\x66\xba\xf8\x03"             /* mov dx, 0x3f8: the serial port */
    "\xb9\x17\x00\x00\x00"         /* mov ecx, 23 */
    "\xf3\x6e"                     /* rep outsb */
    "\xb0\x00"                     /* mov al, 0 */
    "\xe6\xf4"                     /* out 0xf4, al: the end, with this code */
    "guest: hello from C :)\n";

static int fail(vmm_error *error)
{
    fprintf(stderr, "hello: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 1;
}

int main(int argc, char **argv)
{
    vmm_error *error;
    vmm_machine *machine;
    vmm_outcome outcome;
    vmm_status status;

    vmm_config *config = vmm_config_new();
    vmm_config_set_backend(config, argc > 1 ? argv[1] : "auto");
    vmm_config_set_memory(config, 1 << 20);
    vmm_config_set_interrupts(config, false);
    vmm_config_boot_long_mode(config, guest, sizeof guest - 1);
    vmm_config_add_serial(config, -1, 1);
    vmm_config_add_debug_exit(config);
    status = vmm_machine_new(config, &machine, &error);
    vmm_config_free(config);
    if (status != VMM_STATUS_OK)
        return fail(error);

    printf("host:  running on %s (%s)\n", vmm_machine_backend(machine), vmm_machine_backend_reason(machine));
    fflush(stdout);
    do
        status = vmm_machine_run(machine, &outcome, &error);
    while (status == VMM_STATUS_INTERRUPTED && (vmm_error_free(error), 1));
    vmm_machine_free(machine);
    if (status != VMM_STATUS_OK)
        return fail(error);
    printf("host:  %s\n", outcome.text);
    return outcome.ending == VMM_ENDING_POWER_OFF ? outcome.code : 1;
}
