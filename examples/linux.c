/*
 * Boots a Linux kernel with this terminal, or whatever standard input and output are, as its console.
 *
 *   cc -std=c99 examples/linux.c $(pkg-config --cflags --libs vmm) -o linux
 *   ./linux KERNEL [INITRD [COMMAND-LINE [DISK]]]
 *
 * The disk is a raw image, which is only read: what the guest writes is gone with it. A guest that resets starts anew.
 */

#include <stdio.h>
#include <vmm.h>

static int fail(vmm_error *error)
{
    fprintf(stderr, "linux: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 1;
}

int main(int argc, char **argv)
{
    const char *initrd, *cmdline;
    vmm_error *error;
    vmm_config *config;
    vmm_machine *machine;
    vmm_outcome outcome;
    vmm_status status = VMM_STATUS_OK;

    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: linux KERNEL [INITRD [COMMAND-LINE [DISK]]]\n");
        return 1;
    }
    initrd = argc > 2 ? argv[2] : NULL;
    cmdline = argc > 3 ? argv[3] : "console=ttyS0 reboot=k panic=-1";

    config = vmm_config_new();
    vmm_config_set_memory(config, 256 << 20);
    vmm_config_boot_linux(config, argv[1], initrd, cmdline);
    vmm_config_add_serial(config, 0, 1);
    vmm_config_add_rtc(config);
    vmm_config_add_i8042(config);
    vmm_config_add_rng(config, 0, 0);
    if (argc > 4) {
        vmm_disk *disk;
        status = vmm_disk_overlay_temporary(argv[4], &disk, &error);
        if (status == VMM_STATUS_OK)
            vmm_config_add_disk(config, disk);
        vmm_disk_free(disk);
    }
    if (status == VMM_STATUS_OK)
        status = vmm_machine_new(config, &machine, &error);
    vmm_config_free(config);
    if (status != VMM_STATUS_OK)
        return fail(error);

    fprintf(stderr, "linux: running on %s (%s)\n", vmm_machine_backend(machine), vmm_machine_backend_reason(machine));
    for (;;) {
        status = vmm_machine_run(machine, &outcome, &error);
        if (status == VMM_STATUS_OK && outcome.ending == VMM_ENDING_RESET)
            status = vmm_machine_reset(machine, &error);
        else if (status == VMM_STATUS_INTERRUPTED)
            vmm_error_free(error);
        else
            break;
        if (status != VMM_STATUS_OK && status != VMM_STATUS_INTERRUPTED)
            break;
    }
    vmm_machine_free(machine);
    if (status != VMM_STATUS_OK)
        return fail(error);
    fprintf(stderr, "linux: the guest %s\n", outcome.text);
    return outcome.ending == VMM_ENDING_POWER_OFF ? outcome.code : 1;
}
