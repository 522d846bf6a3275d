/*
 * What this host can run.
 *
 *   cc -std=c99 examples/probe.c $(pkg-config --cflags --libs vmm) -o probe && ./probe
 */

#include <stdio.h>
#include <vmm.h>

int main(void)
{
    vmm_error *error;
    vmm_report *report;

    if (!vmm_abi_check(VMM_ABI)) {
        fprintf(stderr, "probe: compiled for a newer libvmm than %s\n", vmm_version());
        return 1;
    }
    if (vmm_probe(&report, &error) != VMM_STATUS_OK) {
        fprintf(stderr, "probe: %s\n", vmm_error_message(error));
        vmm_error_free(error);
        return 1;
    }
    fputs(vmm_report_text(report), stdout);
    vmm_report_free(report);
    return 0;
}
