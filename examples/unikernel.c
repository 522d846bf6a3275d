/*
 * Runs a unikernel, or any kernel that brings all it needs, by the boot protocol its headers ask for.
 *
 *   cc -std=c99 examples/unikernel.c $(pkg-config --cflags --libs vmm) -o unikernel
 *   ./unikernel IMAGE [COMMAND-LINE [MODULE]]
 *
 * Its serial port is standard output; the exit status is the code it ends itself with.
 */

#include <stdio.h>
#include <vmm.h>

static int fail(vmm_error *error)
{
    fprintf(stderr, "unikernel: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 125;
}

int main(int argc, char **argv)
{
    const char *image = argv[1], *cmdline, *module;
    vmm_error *error;
    vmm_inspection *found;
    vmm_config *config;
    vmm_machine *machine;
    vmm_outcome outcome;
    vmm_status status;

    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: unikernel IMAGE [COMMAND-LINE [MODULE]]\n");
        return 125;
    }
    cmdline = argc > 2 ? argv[2] : NULL;
    module = argc > 3 ? argv[3] : NULL;
    if (vmm_inspect(image, &found, &error) != VMM_STATUS_OK)
        return fail(error);

    config = vmm_config_new();
    switch (vmm_inspection_best(found)) {
    case VMM_BOOT_LINUX:
        vmm_config_boot_linux(config, image, module, cmdline);
        break;
    case VMM_BOOT_PVH:
        vmm_config_boot_pvh(config, image, module, cmdline);
        break;
    case VMM_BOOT_MULTIBOOT:
        vmm_config_boot_multiboot(config, image, cmdline);
        if (module)
            vmm_config_add_module(config, module, NULL);
        break;
    case VMM_BOOT_ELF64:
        vmm_config_boot_elf64(config, image, cmdline);
        break;
    default:
        fprintf(stderr, "unikernel: %s cannot be started:\n%s", image, vmm_inspection_text(found));
        vmm_inspection_free(found);
        vmm_config_free(config);
        return 125;
    }
    vmm_inspection_free(found);
    vmm_config_set_memory(config, 64 << 20);
    vmm_config_add_serial(config, -1, 1);
    vmm_config_add_rtc(config);
    vmm_config_add_i8042(config);
    vmm_config_add_debug_exit(config);
    status = vmm_machine_new(config, &machine, &error);
    vmm_config_free(config);
    if (status != VMM_STATUS_OK)
        return fail(error);

    do
        status = vmm_machine_run(machine, &outcome, &error);
    while (status == VMM_STATUS_INTERRUPTED && (vmm_error_free(error), 1));
    vmm_machine_free(machine);
    if (status != VMM_STATUS_OK)
        return fail(error);
    if (outcome.ending != VMM_ENDING_POWER_OFF) {
        fprintf(stderr, "unikernel: %s did not finish: %s\n", image, outcome.text);
        return 125;
    }
    return outcome.code;
}
