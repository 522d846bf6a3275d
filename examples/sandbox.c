/*
 * Runs a static Linux program in a sandbox that sees nothing of the host but its standard streams.
 *
 *   cc -std=c99 examples/sandbox.c $(pkg-config --cflags --libs vmm) -o sandbox
 *   ./sandbox /bin/busybox echo hello
 *
 * The exit status is the program's, or 128 and more if it was stopped.
 */

#include <stdio.h>
#include <vmm.h>

static int fail(vmm_error *error)
{
    fprintf(stderr, "sandbox: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 127;
}

int main(int argc, char **argv)
{
    vmm_error *error;
    vmm_sandbox *sandbox;
    vmm_outcome outcome;
    vmm_status status;
    int i;

    if (argc < 2) {
        fprintf(stderr, "usage: sandbox PROGRAM ARGUMENTS...\n");
        return 127;
    }
    vmm_sandbox_config *config = vmm_sandbox_config_program(argv[1]);
    for (i = 1; i < argc; i++)
        vmm_sandbox_config_add_arg(config, argv[i]);
    vmm_sandbox_config_set_stdio(config, 0, 1, 2);
    status = vmm_sandbox_new(config, &sandbox, &error);
    vmm_sandbox_config_free(config);
    if (status != VMM_STATUS_OK)
        return fail(error);

    do
        status = vmm_sandbox_start(sandbox, &outcome, &error);
    while (status == VMM_STATUS_INTERRUPTED && (vmm_error_free(error), 1));
    vmm_sandbox_free(sandbox);
    if (status != VMM_STATUS_OK)
        return fail(error);
    if (outcome.ending == VMM_ENDING_EXITED)
        return outcome.code;
    fprintf(stderr, "sandbox: %s\n", outcome.text);
    return 128 + outcome.code;
}
